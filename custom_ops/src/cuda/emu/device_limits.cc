// The emulated device: small, so that small tensors reach every regime.
#include "emu/emulator.h"
#include "gn/group_norm_cuda.h"

namespace gn {

CudaError current_device_limits(DeviceLimits* limits) {
  *limits = {90, 132, 232448, 50 * 1024 * 1024, 16};
  return 0;
}

const char* cuda_error_string(CudaError error) { return error == 0 ? "no error" : "emulated error"; }

}  // namespace gn
