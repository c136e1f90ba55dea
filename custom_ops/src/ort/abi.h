// The part of ONNX Runtime's C ABI that this library calls, at API version 17 (ONNX Runtime 1.17).
//
// ONNX Runtime's wheels ship no headers. The ABI is a table of function pointers that only ever grows at its end, so
// the slots below are the same in every later release; `slot` is the position of a pointer in the table. Names are ONNX
// Runtime's own without the prefix Ort.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gn::ort {

inline constexpr std::uint32_t kApiVersion = 17;
inline constexpr std::uint32_t kInPlaceVersion = 18;  // from here on an operator may say that it works in place

// Opaque to us.
struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct ShapeInferContext;
struct Value;
struct TensorTypeAndShapeInfo;
struct MemoryInfo;
struct Allocator;

enum class ErrorCode : int { kOk = 0, kFail = 1, kInvalidArgument = 2, kRuntimeException = 6, kNotImplemented = 9 };
enum class ElementType : int { kUndefined = 0, kFloat = 1, kFloat16 = 10, kDouble = 11, kBFloat16 = 16 };
enum class InputOutput : int { kRequired = 0, kOptional = 1, kVariadic = 2 };
enum class MemoryType : int { kDefault = 0 };

template <std::size_t kCount>
struct Slots {
  void* unused[kCount];
};

struct Api {
  Status* (*CreateStatus)(ErrorCode, const char* message);  // slot 0
  Slots<1> gap1;
  const char* (*GetErrorMessage)(const Status*);  // 2
  Slots<23> gap3;
  Status* (*CreateCustomOpDomain)(const char* domain, CustomOpDomain**);   // 26
  Status* (*CustomOpDomain_Add)(CustomOpDomain*, const struct CustomOp*);  // 27
  Status* (*AddCustomOpDomain)(SessionOptions*, CustomOpDomain*);          // 28
  Slots<22> gap29;
  Status* (*GetTensorMutableData)(Value*, void**);  // 51
  Slots<8> gap52;
  Status* (*GetTensorElementType)(const TensorTypeAndShapeInfo*, ElementType*);                      // 60
  Status* (*GetDimensionsCount)(const TensorTypeAndShapeInfo*, std::size_t*);                        // 61
  Status* (*GetDimensions)(const TensorTypeAndShapeInfo*, std::int64_t* dims, std::size_t);          // 62
  Status* (*GetSymbolicDimensions)(const TensorTypeAndShapeInfo*, const char** names, std::size_t);  // 63
  Slots<1> gap64;
  Status* (*GetTensorTypeAndShape)(const Value*, TensorTypeAndShapeInfo**);  // 65
  Slots<9> gap66;
  Status* (*AllocatorAlloc)(Allocator*, std::size_t bytes, void**);  // 75
  Status* (*AllocatorFree)(Allocator*, void*);                       // 76
  Slots<8> gap77;
  Status* (*KernelInfoGetAttribute_float)(const KernelInfo*, const char* name, float*);         // 85
  Status* (*KernelInfoGetAttribute_int64)(const KernelInfo*, const char* name, std::int64_t*);  // 86
  Slots<1> gap87;
  Status* (*KernelContext_GetInputCount)(const KernelContext*, std::size_t*);  // 88
  Slots<1> gap89;
  Status* (*KernelContext_GetInput)(const KernelContext*, std::size_t index, const Value**);       // 90
  Status* (*KernelContext_GetOutput)(KernelContext*, std::size_t index, const std::int64_t* dims,  //
                                     std::size_t rank, Value**);                                   // 91
  Slots<1> gap92;
  void (*ReleaseStatus)(Status*);  // 93
  Slots<5> gap94;
  void (*ReleaseTensorTypeAndShapeInfo)(TensorTypeAndShapeInfo*);  // 99
  Slots<1> gap100;
  void (*ReleaseCustomOpDomain)(CustomOpDomain*);  // 101
  Slots<30> gap102;
  void (*ReleaseAllocator)(Allocator*);  // 132
  Slots<60> gap133;
  Status* (*KernelContext_GetGPUComputeStream)(const KernelContext*, void** stream);  // 193
  Status* (*GetTensorMemoryInfo)(const Value*, const MemoryInfo**);                   // 194
  Slots<49> gap195;
  Status* (*KernelInfo_GetNodeName)(const KernelInfo*, char* name, std::size_t* size);  // 244
  Slots<8> gap245;
  Status* (*KernelContext_GetAllocator)(const KernelContext*, const MemoryInfo*, Allocator**);  // 253
  Slots<14> gap254;
  Status* (*ShapeInferContext_GetInputTypeShape)(const ShapeInferContext*, std::size_t,
                                                 TensorTypeAndShapeInfo**);  // 268
  Slots<1> gap269;
  Status* (*ShapeInferContext_SetOutputTypeShape)(const ShapeInferContext*, std::size_t,
                                                  const TensorTypeAndShapeInfo*);              // 270
  Status* (*SetSymbolicDimensions)(TensorTypeAndShapeInfo*, const char** names, std::size_t);  // 271
  Slots<2> gap272;
  Status* (*KernelContext_ParallelFor)(const KernelContext*, void (*body)(void*, std::size_t), std::size_t total,
                                       std::size_t batches, void* state);  // 274
};

#define GN_SLOT(member, slot) static_assert(offsetof(Api, member) == (slot) * sizeof(void*), #member)
GN_SLOT(CreateStatus, 0);
GN_SLOT(GetErrorMessage, 2);
GN_SLOT(CreateCustomOpDomain, 26);
GN_SLOT(CustomOpDomain_Add, 27);
GN_SLOT(AddCustomOpDomain, 28);
GN_SLOT(GetTensorMutableData, 51);
GN_SLOT(GetTensorElementType, 60);
GN_SLOT(GetDimensionsCount, 61);
GN_SLOT(GetDimensions, 62);
GN_SLOT(GetSymbolicDimensions, 63);
GN_SLOT(GetTensorTypeAndShape, 65);
GN_SLOT(AllocatorAlloc, 75);
GN_SLOT(AllocatorFree, 76);
GN_SLOT(KernelInfoGetAttribute_float, 85);
GN_SLOT(KernelInfoGetAttribute_int64, 86);
GN_SLOT(KernelContext_GetInputCount, 88);
GN_SLOT(KernelContext_GetInput, 90);
GN_SLOT(KernelContext_GetOutput, 91);
GN_SLOT(ReleaseStatus, 93);
GN_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
GN_SLOT(ReleaseCustomOpDomain, 101);
GN_SLOT(ReleaseAllocator, 132);
GN_SLOT(KernelContext_GetGPUComputeStream, 193);
GN_SLOT(GetTensorMemoryInfo, 194);
GN_SLOT(KernelInfo_GetNodeName, 244);
GN_SLOT(KernelContext_GetAllocator, 253);
GN_SLOT(ShapeInferContext_GetInputTypeShape, 268);
GN_SLOT(ShapeInferContext_SetOutputTypeShape, 270);
GN_SLOT(SetSymbolicDimensions, 271);
GN_SLOT(KernelContext_ParallelFor, 274);
#undef GN_SLOT

struct ApiBase {
  const Api* (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};

// What describes one operator to ONNX Runtime. A null pointer means the default.
struct CustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, std::size_t index);
  std::size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, std::size_t index);
  std::size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, KernelContext*);
  void (*KernelDestroy)(void* kernel);
  InputOutput (*GetInputCharacteristic)(const CustomOp*, std::size_t index);
  InputOutput (*GetOutputCharacteristic)(const CustomOp*, std::size_t index);
  MemoryType (*GetInputMemoryType)(const CustomOp*, std::size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  Status* (*InferOutputShapeFn)(const CustomOp*, ShapeInferContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  // Read by ONNX Runtime only if `version` is kInPlaceVersion or later. Pairs of inputs and outputs, and how many.
  std::size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  std::size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};
static_assert(offsetof(CustomOp, CreateKernel) == 8 && offsetof(CustomOp, KernelDestroy) == 72);
static_assert(offsetof(CustomOp, CreateKernelV2) == 136 && offsetof(CustomOp, GetEndVersion) == 168);
static_assert(offsetof(CustomOp, GetMayInplace) == 176 && sizeof(CustomOp) == 208);

}  // namespace gn::ort
