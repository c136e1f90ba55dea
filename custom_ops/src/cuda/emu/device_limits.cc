// The emulated device: an H100 unless a test asks for another.
#include "emu/emulator.h"
#include "gn/group_norm_cuda.h"

namespace gn {
namespace {

CudaError error_now = 0;
DeviceLimits limits_now = {90, 132, 232448, 50 * 1024 * 1024, 16};

}  // namespace

void emulation::set_device(const DeviceLimits& limits, int error) {
  limits_now = limits;
  error_now = error;
}

CudaError current_device_limits(DeviceLimits* limits) {
  *limits = limits_now;
  return error_now;
}

const char* cuda_error_string(CudaError error) { return error == 0 ? "no error" : "emulated error"; }

}  // namespace gn
