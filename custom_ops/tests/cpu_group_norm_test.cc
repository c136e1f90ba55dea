// The CPU kernels of every instruction set that this processor has, against the definition in long double.
//
// To add a case, add a line to kShapes. --quick leaves out the large tensors, --large takes only them. Exit status 0
// and a count when all is well; otherwise what differs first.

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cpu/kernels.h"
#include "cpu_problem.h"
#include "gn/group_norm_cpu.h"

namespace gn::test {
namespace {

struct Shape {
  const char* label;
  std::int64_t batch, channels, spatial, num_groups;
};

constexpr Shape kShapes[] = {
    {"one element per group", 2, 6, 1, 6},
    {"rank 2", 3, 64, 1, 8},
    {"one group", 1, 24, 35, 1},
    {"as many groups as channels", 2, 7, 65, 7},
    {"odd everything", 3, 15, 17, 5},
    {"rows shorter than a vector", 2, 12, 3, 4},
    {"detector head, last level", 1, 256, 49, 32},
    {"several chunks in a group", 1, 6, 9001, 2},
    {"a group of one large chunk", 1, 4, 4096, 1},
    {"many samples", 33, 8, 20, 2},
    {"wide rows", 2, 600, 5, 3},
    {"more channels than are held at a time", 1, 2064, 3, 8},
    {"more groups than a slab", 1, 400, 9, 200},
    {"samples of several chunks", 5, 2, 9001, 1},
    {"large", 1, 32, 70001, 2},
};

int failures = 0;
int checks = 0;

void expect(bool condition, const std::string& what) {
  ++checks;
  if (condition) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

const Parallel kForward{[](void*, std::size_t count, void (*body)(void*, std::size_t), void* state) {
                          for (std::size_t i = 0; i < count; ++i) body(state, i);
                        },
                        nullptr};
const Parallel kBackward{[](void*, std::size_t count, void (*body)(void*, std::size_t), void* state) {
                           for (std::size_t i = count; i > 0; --i) body(state, i - 1);
                         },
                         nullptr};
const Parallel kThreads{[](void*, std::size_t count, void (*body)(void*, std::size_t), void* state) {
                          std::atomic<std::size_t> next{0};
                          const auto work = [&] {
                            for (std::size_t i; (i = next++) < count;) body(state, i);
                          };
                          std::thread first(work);
                          std::thread second(work);
                          work();
                          first.join();
                          second.join();
                        },
                        nullptr};

Tensor run(const Isa& isa, Problem& problem, const Parallel& parallel, bool in_place = false, std::int64_t offset = 0) {
  Tensor y(*problem.type, static_cast<std::int64_t>(problem.x.count()), offset);
  if (in_place) std::memcpy(y.data(), problem.x.data(), y.bytes());
  const std::size_t bytes = group_norm_cpu_workspace_bytes(problem.sizes);
  const auto workspace = std::make_unique<double[]>(bytes / sizeof(double) + 1);
  const GroupNormBuffers buffers{in_place ? y.data() : problem.x.data(), problem.scale.data(), problem.bias.data(),
                                 y.data()};
  if (problem.x.count() > 0) run_kernels(isa, problem.sizes, buffers, workspace.get(), parallel);
  return y;
}

bool same_bits(const Tensor& a, const Tensor& b) { return std::memcmp(a.data(), b.data(), a.bytes()) == 0; }

// With u half a unit in the last place of the type that is computed in, and everything relative to
// |scale * x_hat| + |scale| + |bias|: x - mean, the two parameters, the multiplication and the addition round once
// each, 5 u; the mean is off by at most 2 u of a standard deviation and 1/std by 4 u, 6 u; SiLU's exponential and
// division 6 u, with its slope of 1.1. The result is then rounded to the type, to half a unit of it or of its smallest
// number.
long double tolerance(const Type& type, const Reference& ref) {
  const long double work = std::ldexp(1.0L, -type.work_digits);
  const long double last = std::ldexp(std::abs(ref.value), -type.digits);
  return 20 * work * ref.size + last * 1.001L + static_cast<long double>(type.smallest);
}

void compare(const std::string& what, const Problem& problem, const Tensor& y) {
  const std::vector<Reference> expected = reference(problem);
  expect(y.guards_intact(), what + ": wrote outside of y");
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto actual = static_cast<long double>(y.get(i));
    const long double error = std::abs(actual - expected[i].value);
    if (!(error <= tolerance(*problem.type, expected[i]))) {
      expect(false, what + ": element " + std::to_string(i) + " is " + std::to_string(actual) + ", expected " +
                        std::to_string(expected[i].value) + ", off by " +
                        std::to_string(error / tolerance(*problem.type, expected[i])) + " tolerances");
      return;
    }
  }
  expect(true, what);
}

// Every way to run the same problem gives the same bits.
void same_in_every_order(const std::string& what, const Isa& isa, Problem& problem, const Tensor& y) {
  expect(same_bits(y, run(isa, problem, kBackward)), what + ": the order of tasks changes the result");
  expect(same_bits(y, run(isa, problem, kThreads)), what + ": threads change the result");
  expect(same_bits(y, run(isa, problem, kForward, true)), what + ": in place differs");
  expect(same_bits(y, run(isa, problem, kForward, false, 1)), what + ": the alignment of y changes the result");
  Problem moved(*problem.type, problem.sizes, problem.input, 1);
  expect(same_bits(y, run(isa, moved, kForward)), what + ": the alignment of x changes the result");
}

// The samples one by one give the bits they have in the batch.
void same_alone(const std::string& what, const Isa& isa, const Problem& problem, const Tensor& y) {
  GroupNormProblem sizes = problem.sizes;
  sizes.batch = 1;
  for (std::int64_t n = 0; n < problem.sizes.batch; ++n) {
    Problem alone(*problem.type, sizes, problem.input);
    const std::size_t bytes = alone.x.bytes();
    std::memcpy(alone.x.data(), problem.x.data() + static_cast<std::size_t>(n) * bytes, bytes);
    const Tensor one = run(isa, alone, kForward);
    expect(std::memcmp(one.data(), y.data() + static_cast<std::size_t>(n) * bytes, bytes) == 0,
           what + ": sample " + std::to_string(n) + " depends on its batch");
  }
}

void bad_values_stay_in_their_group(const Isa& isa, const Type& type, Layout layout) {
  GroupNormProblem sizes{.batch = 2, .channels = 12, .spatial = 21, .num_groups = 3, .layout = layout};
  Problem clean(type, sizes, Input::kOrdinary);
  const Tensor expected = run(isa, clean, kForward);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Problem problem(type, sizes, Input::kOrdinary);
    write(type, problem.x.data() + problem.index(1, 5, 20) * type.bytes, bad);
    const Tensor y = run(isa, problem, kForward);
    for (std::int64_t n = 0; n < 2; ++n) {
      for (std::int64_t c = 0; c < 12; ++c) {
        for (std::int64_t s = 0; s < 21; ++s) {
          const std::size_t i = problem.index(n, c, s);
          const bool inside = n == 1 && c / 4 == 1;
          expect(inside ? std::isnan(y.get(i)) : y.get(i) == expected.get(i),
                 std::string(isa.name) + " " + problem.text() + ": a bad value at channel 5 and what it reached");
        }
      }
    }
  }
}

// Activations of numbers of every size: x is 0, so that they are applied to the bias itself.
void activations_of_all_numbers(const Isa& isa, const Type& type, Layout layout, Activation activation,
                                std::int64_t spatial) {
  std::vector<double> values{0.0, type.smallest, type.largest, std::numeric_limits<double>::infinity()};
  for (double v = 100 * type.smallest; v < type.largest / 2; v *= 1.37) values.push_back(v);
  for (double v = 0.0; v < 120; v += 0.0625) values.push_back(v);
  const std::size_t count = values.size();
  GroupNormProblem sizes{.batch = 1,
                         .channels = 2 * static_cast<std::int64_t>(count),
                         .spatial = spatial,
                         .num_groups = 1,
                         .layout = layout,
                         .activation = activation,
                         .alpha = 0.125F};
  Problem problem(type, sizes, Input::kConstant);
  for (std::size_t i = 0; i < problem.x.count(); ++i) problem.x.set(i, 0.0);
  for (std::size_t c = 0; c < 2 * count; ++c) {
    problem.scale.set(c, 0.0);
    problem.bias.set(c, c < count ? values[c] : -values[c - count]);
  }
  const Tensor y = run(isa, problem, kForward);
  // Far below zero ln(2) is known to a unit only, which is as many of exp as there are powers of two; and where the
  // result is below `nothing`, it may be anything so small. Near zero SiLU is half of what it takes.
  const bool silu = activation == Activation::kSilu;
  const long double hard = activation == Activation::kHardSwish ? std::ldexp(3.0L, -type.work_digits) : 0.0L;
  const long double nothing = !silu ? hard : type.dtype == DType::kFloat64 ? 0x1p-1013L : 0x1p-120L;
  const double near_zero = silu ? std::ldexp(1.0, -type.work_digits - 2) : 0.0;
  for (std::size_t c = 0; c < 2 * count; ++c) {
    const double v = problem.bias.get(c);
    if (std::isinf(v) && v < 0) continue;  // a limit, and no number: 0 times infinity
    const long double expected = activated(sizes, static_cast<long double>(v));
    const auto actual = static_cast<long double>(y.get(problem.index(0, static_cast<std::int64_t>(c), spatial - 1)));
    const long double error = std::abs(actual - expected);
    const long double units = silu && v < 0 ? 8.0L - 0.3L * std::max(-800.0L, static_cast<long double>(v)) : 8.0L;
    const long double last =
        std::ldexp(std::abs(expected), -type.digits) * 1.001L + static_cast<long double>(type.smallest) / 2;
    const long double computed = std::ldexp(std::abs(expected) * units, -type.work_digits) +
                                 static_cast<long double>(type.smallest) / 2 + nothing;
    const long double bound = std::abs(v) < near_zero ? last : last + computed;
    if (std::isinf(expected) ? actual == expected : error <= bound) continue;
    expect(false, std::string(isa.name) + " " + problem.text() + ": the activation of " + std::to_string(v) + " is " +
                      std::to_string(actual) + ", expected " + std::to_string(expected));
  }
  expect(true, "activations of numbers of every size");
}

// ONNX's LeakyRelu: NaN where v < 0, and v elsewhere. Of a NaN all of whose bits are set too.
void leaky_relu_of_nan(const Isa& isa, const Type& type, Layout layout) {
  GroupNormProblem sizes{.batch = 2, .channels = 12, .spatial = 21, .num_groups = 3, .layout = layout};
  Problem plain(type, sizes, Input::kOrdinary);
  const Tensor v = run(isa, plain, kForward);
  sizes.activation = Activation::kLeakyRelu;
  for (const std::uint32_t bits : {0x7FC00000U, 0xFFC00000U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
    sizes.alpha = std::bit_cast<float>(bits);
    Problem problem(type, sizes, Input::kOrdinary);
    const Tensor y = run(isa, problem, kForward);
    for (std::size_t i = 0; i < y.count(); ++i) {
      expect(v.get(i) < 0 ? std::isnan(y.get(i)) : y.get(i) == v.get(i),
             std::string(isa.name) + " " + problem.text() + ": a slope that is NaN, of " + std::to_string(v.get(i)) +
                 ", gives " + std::to_string(y.get(i)));
    }
  }
}

// A tensor that is written past the cache.
void large_results(const Isa& isa, const Type& type, Layout layout) {
  const auto elements = static_cast<std::int64_t>((std::size_t{34} << 20) / type.bytes);
  GroupNormProblem sizes{.batch = 1, .channels = 32, .spatial = elements / 32 + 3, .num_groups = 4, .layout = layout};
  sizes.activation = Activation::kRelu;
  Problem problem(type, sizes, Input::kOrdinary);
  const Tensor y = run(isa, problem, kThreads);
  const std::string what = std::string(isa.name) + " " + problem.text();
  compare(what, problem, y);
  expect(same_bits(y, run(isa, problem, kForward, true)), what + ": in place differs");
}

void one_problem(const Isa& isa, const Type& type, const Shape& shape, Layout layout, Activation activation,
                 Input input) {
  GroupNormProblem sizes{
      .batch = shape.batch, .channels = shape.channels, .spatial = shape.spatial, .num_groups = shape.num_groups};
  sizes.layout = layout;
  sizes.activation = activation;
  sizes.alpha = 0.125F;
  Problem problem(type, sizes, input);
  const std::string what = std::string(isa.name) + " " + shape.label + ": " + problem.text();
  const Tensor y = run(isa, problem, kForward);
  compare(what, problem, y);
  if (input != Input::kOrdinary) return;
  same_in_every_order(what, isa, problem, y);
  same_alone(what, isa, problem, y);
}

enum class Extent { kQuick, kLarge, kAll };

void all_of(const Isa& isa, Extent extent) {
  constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kSilu,
                                         Activation::kHardSwish, Activation::kLeakyRelu};
  for (const Type& type : kTypes) {
    for (const Layout layout : {Layout::kChannelsFirst, Layout::kChannelsLast}) {
      for (const Shape& shape : kShapes) {
        const bool large = shape.spatial > 10000;
        if (extent != Extent::kAll && large != (extent == Extent::kLarge)) continue;
        if (large) {
          one_problem(isa, type, shape, layout, Activation::kNone, Input::kLargeMean);
          continue;
        }
        for (const Input input : kInputs) one_problem(isa, type, shape, layout, Activation::kNone, input);
        for (const Activation activation : kActivations) {
          if (activation == Activation::kNone) continue;
          one_problem(isa, type, shape, layout, activation, Input::kOrdinary);
          one_problem(isa, type, shape, layout, activation, Input::kWideResult);
        }
      }
      for (const Shape& empty : {Shape{"", 0, 4, 3, 2}, Shape{"", 2, 0, 3, 2}, Shape{"", 2, 4, 0, 2}}) {
        one_problem(isa, type, empty, layout, Activation::kNone, Input::kOrdinary);
      }
      bad_values_stay_in_their_group(isa, type, layout);
      leaky_relu_of_nan(isa, type, layout);
      for (const Activation activation : kActivations) {
        for (const std::int64_t spatial : {1, 3, 40}) {
          activations_of_all_numbers(isa, type, layout, activation, spatial);
        }
      }
      if (extent != Extent::kQuick) large_results(isa, type, layout);
    }
  }
}

}  // namespace
}  // namespace gn::test

int main(int argc, char** argv) {
  using gn::test::Extent;
  const std::string wanted = argc > 1 ? argv[1] : "";
  const Extent extent = wanted == "--quick" ? Extent::kQuick : wanted == "--large" ? Extent::kLarge : Extent::kAll;
  const gn::IsaList& list = gn::supported_isas();
  for (int i = 0; i < list.count; ++i) gn::test::all_of(list.isas[i], extent);
  std::printf("%d checks, %d failed, on", gn::test::checks, gn::test::failures);
  for (int i = 0; i < list.count; ++i) std::printf(" %s", list.isas[i].name);
  std::printf("\n");
  return gn::test::failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
