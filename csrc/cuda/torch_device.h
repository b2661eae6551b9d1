// Where the operators' CUDA code runs: a tensor's device, torch's current stream, memory from torch's
// allocator.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "../common/dtypes.h"
#include "device.cuh"
#include "launches.h"

namespace faceattr::gpu {

using torch::stable::Tensor;

class CudaDevice {
 public:
  // Measured on an H100: 6 us and 2.4 us for every 10^6 products, against 11 to 14 us by tiles.
  static constexpr int64_t direct_products = 1 << 21;
  int64_t multiprocessors, shared_bytes;

  explicit CudaDevice(const Tensor& tensor) : device_(tensor.device()), guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    const int index = tensor.get_device_index();
    int count = 0, shared = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, index));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, index));
    STD_CUDA_CHECK(
        cudaDeviceGetAttribute(&most_shared_bytes_, cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
    multiprocessors = count;
    shared_bytes = shared / 2 - 1024;  // a block has 1 KiB of the system's
  }

  // Lives until the operator returns; the allocator reuses it only after the work on this stream.
  template <typename T>
  T* workspace(int64_t count) {
    const std::vector<int64_t> bytes{count * static_cast<int64_t>(sizeof(T))};
    workspaces_.push_back(torch::stable::empty(bytes, ScalarType::Byte, std::nullopt, device_));
    return static_cast<T*>(workspaces_.back().mutable_data_ptr());
  }

  // The kernel's last parameter is the first block's index: a grid holds fewer than 2^31 blocks, the work may
  // have more.
  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared_bytes,
              const Arguments&... arguments) {
    const auto* code = reinterpret_cast<const void*>(kernel);
    if (shared_bytes > 48 * 1024) allow_most_shared_memory(code);
    cudaLaunchAttribute starts_early{};
    starts_early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    starts_early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    config.attrs = &starts_early;
    launches_.in_portions(blocks, INT32_MAX, [&](int64_t first, int64_t count, bool early) {
      config.gridDim = dim3(static_cast<unsigned>(count));
      config.numAttrs = early && can_start_early(code);
      if (config.numAttrs > 0) {
        if (cudaLaunchKernelEx(&config, kernel, arguments..., first) == cudaSuccess) return;
        cudaGetLastError();  // the driver refuses; what else may be wrong the plain launch tells
        can_start_early_ = false;
        config.numAttrs = 0;
      }
      STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments..., first));
    });
  }

 private:
  // More than 48 KiB has to be asked for: always the most that the device offers beside what the kernel has
  // anyway, or another thread's smaller wish could come in between.
  void allow_most_shared_memory(const void* kernel) const {
    cudaFuncAttributes own;
    STD_CUDA_CHECK(cudaFuncGetAttributes(&own, kernel));
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        most_shared_bytes_ - static_cast<int>(own.sharedSizeBytes)));
  }

  // Whether the code that runs here awaits its turn: a device of sm_90 or later may run PTX of an older
  // architecture, which does not. All kernels are compiled for the same. Graphs get plain launches: a driver
  // that refuses early ones there ends the capture.
  bool can_start_early(const void* kernel) {
    if (!can_start_early_) {
      cudaFuncAttributes code;
      cudaStreamCaptureStatus capture;
      STD_CUDA_CHECK(cudaFuncGetAttributes(&code, kernel));
      STD_CUDA_CHECK(cudaStreamIsCapturing(stream_, &capture));
      can_start_early_ = code.ptxVersion >= 90 && capture == cudaStreamCaptureStatusNone;
    }
    return *can_start_early_;
  }

  torch::stable::Device device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
  int most_shared_bytes_ = 0;
  Launches launches_;
  std::optional<bool> can_start_early_;  // asked for once, at the second launch
  std::vector<Tensor> workspaces_;
};

// From torch's types to the kernels'.
template <typename T>
struct KernelType {
  using type = T;
};
template <>
struct KernelType<torch::headeronly::Half> {
  using type = gpu::Half;
};
template <>
struct KernelType<torch::headeronly::BFloat16> {
  using type = gpu::BFloat16;
};

template <typename F>
void dispatch_kernel_type(ScalarType dtype, const char* op, const F& body) {
  dispatch_floating(dtype, op, [&](auto zero) { body(typename KernelType<decltype(zero)>::type{}); });
}

template <typename T>
const T* read_pointer(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* write_pointer(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace faceattr::gpu
