// Binds a kernel as a Python function of keyword arguments, one per field of the kernel's argument struct:
//
//   using Args = XArgs;
//   bind(module, "x", cpu::x, cuda::x, PYNAS_FIELD(weight), PYNAS_FIELD(size), ...);
//
// Python passes a tensor as the address of its data (None: null), and an enumeration as its number. With `stream`, the
// address of a CUDA stream, the kernel runs on that stream; with None on the CPU. Without cuda::x there is no `stream`.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <type_traits>

#define PYNAS_FIELD(name) ::pynas::Field<Args, decltype(Args::name)>{#name, &Args::name}

namespace pynas {

namespace py = pybind11;

template <class Args, class T>
struct Field {
  const char* name;
  T Args::* member;
};

// The type in which Python passes a field of type T.
template <class T>
struct PassedType {
  using type = std::conditional_t<std::is_enum_v<T>, int, T>;
};
template <class T>
struct PassedType<T*> {
  using type = std::optional<uintptr_t>;
};
template <class T, size_t N>
struct PassedType<T[N]> {
  using type = std::array<T, N>;
};
template <class T>
using Passed = typename PassedType<T>::type;

template <class T>
void assign(T& field, const Passed<T>& value) {
  if constexpr (std::is_pointer_v<T>) field = reinterpret_cast<T>(value.value_or(0));
  else if constexpr (std::is_array_v<T>) std::copy(value.begin(), value.end(), field);
  else field = static_cast<T>(value);
}

template <class Args, class... T>
void bind(py::module_& module, const char* name, void (*cpu)(const Args&), Field<Args, T>... fields) {
  const auto run = [cpu, fields...](const Passed<T>&... values) {
    Args args{};
    (assign(args.*fields.member, values), ...);
    cpu(args);
  };
  module.def(name, run, py::kw_only(), py::arg(fields.name)..., py::call_guard<py::gil_scoped_release>());
}

template <class Args, class... T>
void bind(py::module_& module, const char* name, void (*cpu)(const Args&), void (*cuda)(const Args&, void*),
          Field<Args, T>... fields) {
  const auto run = [cpu, cuda, fields...](const Passed<T>&... values, std::optional<uintptr_t> stream) {
    Args args{};
    (assign(args.*fields.member, values), ...);
    stream ? cuda(args, reinterpret_cast<void*>(*stream)) : cpu(args);
  };
  module.def(name, run, py::kw_only(), py::arg(fields.name)..., py::arg("stream"),
             py::call_guard<py::gil_scoped_release>());
}

}  // namespace pynas
