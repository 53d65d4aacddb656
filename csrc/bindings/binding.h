// What the bindings share: Python passes a tensor as the integer of its address, and the stream as an integer or None.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>

namespace py = pybind11;

namespace pynas {

// The address of a tensor's data (0 for none), as whichever pointer the argument struct wants.
struct Pointer {
  uintptr_t address;

  template <class T>
  operator T*() const {
    return reinterpret_cast<T*>(address);
  }
};

// The CUDA stream to launch on; none: run on the CPU.
struct Stream {
  std::optional<uintptr_t> address;

  explicit operator bool() const { return address.has_value(); }
  void* handle() const { return reinterpret_cast<void*>(*address); }
};

}  // namespace pynas

namespace pybind11::detail {

template <>
struct type_caster<pynas::Pointer> {
  PYBIND11_TYPE_CASTER(pynas::Pointer, const_name("int"));
  bool load(handle source, bool convert) {
    make_caster<uintptr_t> caster;
    if (!caster.load(source, convert)) return false;
    value.address = caster;
    return true;
  }
};

template <>
struct type_caster<pynas::Stream> {
  PYBIND11_TYPE_CASTER(pynas::Stream, const_name("int | None"));
  bool load(handle source, bool convert) {
    make_caster<std::optional<uintptr_t>> caster;
    if (!caster.load(source, convert)) return false;
    value.address = static_cast<std::optional<uintptr_t>&>(caster);
    return true;
  }
};

}  // namespace pybind11::detail
