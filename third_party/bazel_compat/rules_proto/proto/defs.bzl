"""The protobuf rules that Bazel carries, under the names that its own files load."""

proto_lang_toolchain = native.proto_lang_toolchain
proto_library = native.proto_library
