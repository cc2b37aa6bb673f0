#!/usr/bin/env python3
"""Writes tests/data/onnx/everything.onnx: a file in which every field of onnx.proto occurs.

    pip install onnx==1.23.2
    python tests/scripts/everything.py

Made from the schema itself: each field of each message gets a value, members of a oneof in turn, down to a
depth at which every message type has been filled. It is no valid model, but reading and writing it must not lose
a byte.
"""
import collections
import pathlib

import onnx
from google.protobuf.descriptor import FieldDescriptor as F

SAMPLES = {
    F.CPPTYPE_INT32: 5, F.CPPTYPE_INT64: -3, F.CPPTYPE_UINT32: 7, F.CPPTYPE_UINT64: 2**63 + 1,
    F.CPPTYPE_DOUBLE: 0.1, F.CPPTYPE_FLOAT: 0.5, F.CPPTYPE_BOOL: True,
}


turns = collections.Counter()
filled = set()


def fill(message, depth):
    chosen = {}
    for one in message.DESCRIPTOR.oneofs:
        chosen[one.name] = one.fields[turns[one.full_name] % len(one.fields)]
        turns[one.full_name] += 1
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof and chosen[field.containing_oneof.name] is not field:
            continue
        repeated = field.is_repeated
        if field.cpp_type == F.CPPTYPE_MESSAGE:
            if depth:
                target = getattr(message, field.name)
                child = target.add() if repeated else target
                child.SetInParent()
                fill(child, depth - 1)
                filled.add((field.message_type.full_name, field.full_name))
            continue
        if field.cpp_type == F.CPPTYPE_ENUM:
            value = field.enum_type.values[-1].number
        elif field.cpp_type == F.CPPTYPE_STRING:
            value = field.name if field.type == F.TYPE_STRING else bytes([0, 255, depth])
        else:
            value = SAMPLES[field.cpp_type]
        if repeated:
            getattr(message, field.name).extend([value, value])
        else:
            setattr(message, field.name, value)
    # prost writes a oneof at the place of its lowest tag: legal, but then the bytes differ in order.
    if isinstance(message, onnx.TypeProto) and chosen["value"].number > 6:
        message.ClearField("denotation")


model = onnx.ModelProto()
fill(model, 7)
every = {
    (f.message_type.full_name, f.full_name)
    for message in onnx.onnx_pb.DESCRIPTOR.message_types_by_name.values()
    for kind in [message, *message.nested_types]
    for f in kind.fields
    if f.cpp_type == F.CPPTYPE_MESSAGE
}
assert filled == every, every - filled
model.ir_version = 9
del model.opset_import[:], model.graph.input[:]
model.opset_import.append(onnx.helper.make_opsetid("", 20))
model.opset_import.append(onnx.helper.make_opsetid("some.domain", 1))
model.metadata_props.append(onnx.StringStringEntryProto(key="key", value="old"))
T = onnx.TensorProto
info = onnx.helper.make_tensor_value_info
model.graph.input.extend([
    info("x", T.FLOAT, ["batch", 3]), info("unranked", T.FLOAT16, None), info("odd", T.UINT16, [None, -1]),
    onnx.helper.make_tensor_sequence_value_info("list", T.FLOAT, None), info("name", T.FLOAT, [1]),
])
out = pathlib.Path(__file__).parents[1] / "data" / "onnx" / "everything.onnx"
out.write_bytes(model.SerializeToString(deterministic=True))
print(out, out.stat().st_size, "bytes")
