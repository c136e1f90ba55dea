#include "emu/fiber.h"

#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define GN_ASAN 1
#else
#define GN_ASAN 0
#endif

namespace gn::emulation {
namespace {

constexpr std::size_t kStackBytes = GN_ASAN ? 128 * 1024 : 64 * 1024;

// Stacks are handed from block to block: allocating one per emulated thread would take longer than running it.
std::vector<std::unique_ptr<unsigned char[]>>& spare_stacks() {
  static thread_local std::vector<std::unique_ptr<unsigned char[]>> stacks;
  return stacks;
}

#if defined(__x86_64__)
// swapcontext makes a system call for the signal mask; a kernel of this emulation switches a million times a second.
extern "C" void gn_emulation_switch(void** save_stack_pointer, void* load_stack_pointer);
asm(R"(
.text
.type gn_emulation_switch, @function
gn_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gn_emulation_switch, . - gn_emulation_switch
)");
#endif

}  // namespace

struct Fiber::Context {
  std::unique_ptr<unsigned char[]> stack;
#if defined(__x86_64__)
  void* own = nullptr;
  void* caller = nullptr;
#else
  ucontext_t own{};
  ucontext_t caller{};
#endif
  // What the address sanitizer needs to know about a change of stacks.
  void* fake_stack = nullptr;
  const void* caller_stack = nullptr;
  std::size_t caller_bytes = 0;
};

namespace {
thread_local Fiber* starting = nullptr;
}

Fiber::Fiber(std::function<void()> body) : body(std::move(body)), context(std::make_unique<Context>()) {
  auto& spare = spare_stacks();
  if (spare.empty()) {
    context->stack = std::make_unique_for_overwrite<unsigned char[]>(kStackBytes);
  } else {
    context->stack = std::move(spare.back());
    spare.pop_back();
  }
  auto trampoline = +[] { entry(starting); };
#if defined(__x86_64__)
  auto top = reinterpret_cast<std::uintptr_t>(context->stack.get() + kStackBytes) & ~std::uintptr_t{15};
  auto* frame = reinterpret_cast<void**>(top);
  *--frame = nullptr;  // where a return address would be: keeps the alignment that a called function expects
  *--frame = reinterpret_cast<void*>(trampoline);
  for (int saved = 0; saved < 6; ++saved) *--frame = nullptr;
  context->own = frame;
#else
  getcontext(&context->own);
  context->own.uc_stack.ss_sp = context->stack.get();
  context->own.uc_stack.ss_size = kStackBytes;
  makecontext(&context->own, trampoline, 0);
#endif
}

Fiber::~Fiber() {
#if GN_ASAN
  ASAN_UNPOISON_MEMORY_REGION(context->stack.get(), kStackBytes);
#endif
  spare_stacks().push_back(std::move(context->stack));
}

void Fiber::entry(Fiber* fiber) {
#if GN_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &fiber->context->caller_stack, &fiber->context->caller_bytes);
#endif
  fiber->body();
  fiber->done = true;
  fiber->leave(true);
  std::abort();  // a finished fiber is never resumed
}

void Fiber::resume() {
  starting = this;
#if GN_ASAN
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, context->stack.get(), kStackBytes);
#endif
#if defined(__x86_64__)
  gn_emulation_switch(&context->caller, context->own);
#else
  swapcontext(&context->caller, &context->own);
#endif
#if GN_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void Fiber::suspend() { leave(false); }

void Fiber::leave([[maybe_unused]] bool for_good) {
#if GN_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &context->fake_stack, context->caller_stack,
                                 context->caller_bytes);
#endif
#if defined(__x86_64__)
  gn_emulation_switch(&context->own, context->caller);
#else
  swapcontext(&context->own, &context->caller);
#endif
#if GN_ASAN
  __sanitizer_finish_switch_fiber(context->fake_stack, &context->caller_stack, &context->caller_bytes);
#endif
}

}  // namespace gn::emulation
