// Runs the operators' CUDA code in the emulator on what it reads from stdin and writes the results to stdout.
//
// A case is a row of int64: operator, dtype, allow_tf32, the device's most_blocks, multiprocessors,
// shared_bytes and direct_products, number of arguments, arguments; then the buffers: number of inputs, each
// its bytes (-1: none) and its contents; number of outputs and the bytes of each. The answer: the number of
// launches and how many of them may start early, then the outputs' contents one after the other.
// tests/emulator/cases.py writes cases.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "../../csrc/cuda/launches.h"
#include "../../csrc/density_peaks/kernels.cuh"
#include "../../csrc/interweave/kernels.cuh"
#include "../../csrc/interweaved_conv2d/kernels.cuh"
#include "../../csrc/locally_shared_conv2d/kernels.cuh"

using namespace faceattr;
using namespace faceattr::gpu;

namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<unsigned char, Free>;

// Exactly `bytes`, so that AddressSanitizer knows the ends, and full of garbage (NaN as a number).
Buffer allocate(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 16, bytes) != 0) std::abort();
  std::memset(memory, 0xff, bytes);
  return Buffer(static_cast<unsigned char*>(memory));
}

struct EmulatedDevice {
  int64_t most_blocks, multiprocessors, shared_bytes, direct_products;  // most_blocks: of one launch
  int64_t launches = 0, early = 0;
  Launches order = {};
  std::vector<Buffer> workspaces = {};

  template <typename T>
  T* workspace(int64_t count) {
    workspaces.push_back(allocate(count * sizeof(T)));
    return reinterpret_cast<T*>(workspaces.back().get());
  }

  template <typename Kernel, typename... Arguments>
  void launch(Kernel kernel, int64_t blocks, int threads, size_t shared_bytes,
              const Arguments&... arguments) {
    emulator::most_shared_bytes = std::max(int64_t(99 * 1024), this->shared_bytes);  // any GPU gives 99 KiB
    order.in_portions(blocks, most_blocks, [&](int64_t first, int64_t count, bool starts_early) {
      ++launches;
      early += starts_early;
      emulator::launch(kernel, count, threads, shared_bytes, starts_early, arguments..., first);
    });
  }
};

struct Case {
  bool allow_tf32;
  std::vector<int64_t> arguments;
  std::vector<Buffer> inputs, outputs;
  size_t next = 0;

  int64_t argument() { return arguments.at(next++); }

  template <typename T>
  T* input(int i) const {
    return reinterpret_cast<T*>(inputs.at(i).get());
  }
  template <typename T>
  T* output(int i) const {
    return reinterpret_cast<T*>(outputs.at(i).get());
  }
  // Offset and strides are arguments.
  template <typename T>
  Map<T> map(T* data) {
    data += argument();
    const int64_t n = argument(), c = argument(), y = argument(), x = argument();
    return {data, n, c, y, x};
  }
  // Whether they lie channels last is an argument.
  template <typename T>
  Filters<T> filters(const T* data) {
    return {data, argument() != 0};
  }
  template <typename Geometry>
  Geometry geometry() {
    Geometry g;
    auto* fields = reinterpret_cast<int64_t*>(&g);
    for (size_t i = 0; i < sizeof(g) / sizeof(int64_t); ++i) fields[i] = argument();
    return g;
  }
};

enum Operator {
  kSharedForward,
  kSharedInputGrad,
  kSharedWeightGrad,
  kSharedBackward,
  kInterweave,
  kInterweaveAdjoint,
  kInterweavedForward,
  kInterweavedBackward,
  kDensityPeaks
};

// The compiler is told bits of the operators and dtypes to build.
constexpr bool is_built(Operator op, int dtype) {
  return (EMULATE_OPERATORS >> op & EMULATE_DTYPES >> dtype & 1) != 0;
}

template <int dtype, typename T>
void run(Operator op, Case& c, EmulatedDevice& device) {
  if constexpr (is_built(kSharedForward, dtype))
    if (op == kSharedForward) {
      const auto g = c.geometry<LocallySharedGeometry>();
      const auto input = c.map<const T>(c.input<T>(0));
      const auto output = c.map<T>(c.output<T>(0));
      const auto filters = c.filters<T>(c.input<T>(1));
      return locally_shared_forward<T>(device, g, input, filters, c.input<T>(2), output, c.allow_tf32);
    }
  if constexpr (is_built(kSharedInputGrad, dtype))
    if (op == kSharedInputGrad) {
      const auto g = c.geometry<LocallySharedGeometry>();
      const auto grad = c.map<const T>(c.input<T>(0));
      const auto result = c.map<T>(c.output<T>(0));
      const auto filters = c.filters<T>(c.input<T>(1));
      return locally_shared_input_grad<T>(device, g, grad, filters, result, c.allow_tf32);
    }
  if constexpr (is_built(kSharedWeightGrad, dtype))
    if (op == kSharedWeightGrad) {
      const auto g = c.geometry<LocallySharedGeometry>();
      const auto grad = c.map<const T>(c.input<T>(0));
      const auto input = c.map<const T>(c.input<T>(1));
      const auto result = weight_grad_of<T>(convolution_of(g), c.output<T>(0), false, c.output<T>(1));
      return locally_shared_weight_grad<T>(device, g, grad, input, result, c.allow_tf32);
    }
  if constexpr (is_built(kSharedBackward, dtype))
    if (op == kSharedBackward) {
      const auto g = c.geometry<LocallySharedGeometry>();
      const auto grad = c.map<const T>(c.input<T>(0));
      const auto input = c.map<const T>(c.input<T>(1));
      const auto input_grad = c.map<T>(c.output<T>(0));
      const auto filters = c.filters<T>(c.input<T>(2));
      const auto weight_grad =
          weight_grad_of<T>(convolution_of(g), c.output<T>(1), filters.channels_last, c.output<T>(2));
      return locally_shared_backward<T>(device, g, grad, input, filters, input_grad, weight_grad,
                                        c.allow_tf32);
    }
  if constexpr (is_built(kInterweave, dtype))
    if (op == kInterweave) {
      const auto g = c.geometry<InterweaveGeometry>();
      const auto strides = c.geometry<MapsStrides>();
      return interweave_forward<T>(device, g, c.input<T>(0), strides, c.output<T>(0));
    }
  if constexpr (is_built(kInterweaveAdjoint, dtype))
    if (op == kInterweaveAdjoint) {
      const auto g = c.geometry<InterweaveGeometry>();
      const int64_t strides[4] = {c.argument(), c.argument(), c.argument(), c.argument()};
      return interweave_backward<T>(device, g, c.input<T>(0), strides, c.output<T>(0));
    }
  if constexpr (is_built(kInterweavedForward, dtype))
    if (op == kInterweavedForward) {
      const auto g = c.geometry<InterweavedGeometry>();
      const auto input = c.map<const T>(c.input<T>(0));
      const auto output = c.map<T>(c.output<T>(0));
      const auto filters = c.filters<T>(c.input<T>(1));
      return interweaved_forward<T>(device, g, input, filters, c.input<T>(2), output, c.allow_tf32);
    }
  if constexpr (is_built(kInterweavedBackward, dtype))
    if (op == kInterweavedBackward) {
      const auto g = c.geometry<InterweavedGeometry>();
      const auto grad = c.map<const T>(c.input<T>(0));
      const auto input = c.map<const T>(c.input<T>(1));
      const auto result = c.map<T>(c.output<T>(0));
      const auto filters = c.filters<T>(c.input<T>(2));
      return interweaved_backward<T>(device, g, grad, input, filters, c.input<T>(3), result, c.output<T>(1),
                                     c.output<T>(2), c.allow_tf32);
    }
  if constexpr (is_built(kDensityPeaks, dtype))
    if (op == kDensityPeaks) {
      const int64_t maps = c.argument(), height = c.argument(), width = c.argument();
      return density_peaks<T>(device, maps, height, width, c.input<T>(0), *c.input<double>(1),
                              c.output<accumulate_t<T>>(0), c.output<int64_t>(1));
    }
  std::abort();
}

bool read(int64_t& value) {
  return std::fread(&value, sizeof(value), 1, stdin) == 1;
}

int64_t read_number() {
  int64_t value;
  if (!read(value)) std::abort();
  return value;
}

}  // namespace

int main() {
  int64_t op;
  while (read(op)) {
    const int64_t dtype = read_number();
    Case c;
    c.allow_tf32 = read_number();
    const int64_t most_blocks = read_number(), multiprocessors = read_number(), shared_bytes = read_number();
    EmulatedDevice device{most_blocks, multiprocessors, shared_bytes, read_number()};
    c.arguments.resize(read_number());
    for (auto& argument : c.arguments) argument = read_number();
    c.inputs.resize(read_number());
    for (auto& input : c.inputs) {
      const int64_t bytes = read_number();
      if (bytes < 0) continue;
      input = allocate(bytes);
      if (std::fread(input.get(), 1, bytes, stdin) != static_cast<size_t>(bytes)) std::abort();
    }
    std::vector<size_t> sizes(read_number());
    for (auto& size : sizes) size = read_number();
    for (size_t size : sizes) c.outputs.push_back(allocate(size));
    switch (dtype) {
      case 0:
        run<0, double>(static_cast<Operator>(op), c, device);
        break;
      case 1:
        run<1, float>(static_cast<Operator>(op), c, device);
        break;
      case 2:
        run<2, Half>(static_cast<Operator>(op), c, device);
        break;
      case 3:
        run<3, BFloat16>(static_cast<Operator>(op), c, device);
        break;
      default:
        std::abort();
    }
    emulator::synchronize();
    for (const int64_t count : {device.launches, device.early}) std::fwrite(&count, sizeof(count), 1, stdout);
    for (size_t i = 0; i < sizes.size(); ++i) std::fwrite(c.outputs[i].get(), 1, sizes[i], stdout);
    std::fflush(stdout);
  }
}
