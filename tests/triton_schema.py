"""The part of Triton's model_config.proto that we write: names, numbers and types of fields as published.

A slow test compares it with the schema in NVIDIA's `tritonclient` package.
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_KINDS = ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")
_TYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
    "STRING", "BF16",
)  # fmt: skip

ENUMS = {"DataType": [f"TYPE_{name}" for name in _TYPES], "ModelInstanceGroup.Kind": list(_KINDS)}

FIELDS = {
    "ModelTensorReshape": {"shape": (1, "int64*")},
    "ModelInput": {
        "name": (1, "string"),
        "data_type": (2, "DataType"),
        "dims": (4, "int64*"),
        "reshape": (5, "ModelTensorReshape"),
        "optional": (8, "bool"),
    },
    "ModelOutput": {
        "name": (1, "string"),
        "data_type": (2, "DataType"),
        "dims": (3, "int64*"),
        "reshape": (5, "ModelTensorReshape"),
    },
    "ModelInstanceGroup": {"count": (2, "int32"), "kind": (4, "ModelInstanceGroup.Kind")},
    "ModelDynamicBatching": {"max_queue_delay_microseconds": (2, "uint64")},
    "ModelOperations": {"op_library_filename": (1, "string*")},
    "ModelConfig": {
        "name": (1, "string"),
        "max_batch_size": (4, "int32"),
        "input": (5, "ModelInput*"),
        "output": (6, "ModelOutput*"),
        "instance_group": (7, "ModelInstanceGroup*"),
        "default_model_filename": (8, "string"),
        "dynamic_batching": (11, "ModelDynamicBatching"),
        "backend": (17, "string"),
        "model_operations": (18, "ModelOperations"),
    },
}
"""Message -> field -> number and type, `*` where it is repeated."""

_Field = descriptor_pb2.FieldDescriptorProto


def model_config() -> type[message.Message]:
    """The class of `ModelConfig` messages."""
    file = descriptor_pb2.FileDescriptorProto(name="triton_fields.proto", package="triton_fields", syntax="proto3")
    for name, fields in FIELDS.items():
        kind = file.message_type.add(name=name)
        for field, (number, type_) in fields.items():
            added = kind.field.add(name=field, number=number, label=_Field.LABEL_OPTIONAL)
            if type_.endswith("*"):
                added.label = _Field.LABEL_REPEATED
            type_ = type_.removesuffix("*")
            if type_ in ENUMS:
                added.type, added.type_name = _Field.TYPE_ENUM, f".triton_fields.{type_}"
            elif type_ in FIELDS:
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".triton_fields.{type_}"
            else:
                added.type = _Field.Type.Value(f"TYPE_{type_.upper()}")
    messages = {kind.name: kind for kind in file.message_type}
    for name, values in ENUMS.items():
        owner, _, inner = name.rpartition(".")
        enum = (messages[owner] if owner else file).enum_type.add(name=inner)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triton_fields.ModelConfig"))
