// A stack of its own for every emulated thread, and the switch from one to another.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace gn::emulation {

class Fiber {
 public:
  explicit Fiber(std::function<void()> body);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs the body from where it stopped until its next suspend() or its end. Called from outside any fiber.
  void resume();
  // Back to the caller of resume(). Called from inside this fiber.
  void suspend();
  bool finished() const { return done; }

 private:
  struct Context;
  static void entry(Fiber* fiber);
  void leave(bool for_good);

  std::function<void()> body;
  std::unique_ptr<Context> context;
  bool done = false;
};

}  // namespace gn::emulation
