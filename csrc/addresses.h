// Addresses handed over from Python by the names of a struct's fields, for both extensions.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace aru {

struct Pointer {
  const char* name;
  size_t offset;  // in the struct
};

// The fields of a struct that are pointers. An absent one stays as it is: null.
template <class Struct> class Pointers {
 public:
  Pointers(std::initializer_list<Pointer> pointers) {
    for (const Pointer& p : pointers)
      // interned, as the names of keyword arguments are: most lookups compare two addresses
      fields_.push_back({PyUnicode_InternFromString(p.name), p.offset});
  }

  void fill(Struct& to, const pybind11::kwargs& addresses) const {
    PyObject *name, *value;
    for (Py_ssize_t i = 0; PyDict_Next(addresses.ptr(), &i, &name, &value);) {
      void* address = PyLong_AsVoidPtr(value);
      if (!address && PyErr_Occurred()) throw pybind11::error_already_set();
      std::memcpy(reinterpret_cast<char*>(&to) + offset(name), &address, sizeof(address));
    }
  }

 private:
  struct Field {
    PyObject* name;
    size_t offset;
  };

  size_t offset(PyObject* name) const {
    for (const Field& field : fields_)
      if (field.name == name) return field.offset;
    for (const Field& field : fields_)
      if (PyUnicode_Compare(field.name, name) == 0) return field.offset;
    throw std::invalid_argument("there is no address " + std::string(pybind11::str(name)) + " for this kernel.");
  }

  std::vector<Field> fields_;
};

}  // namespace aru

// For the struct F: the pointer field of this name, and the five of the field `controller`.
#define ARU_POINTER(field) {#field, offsetof(F, field)}
#define ARU_CONTROLLER_POINTER(field) {#field, offsetof(F, controller.field)}
#define ARU_CONTROLLER                                                                                  \
  ARU_CONTROLLER_POINTER(weight_ag), ARU_CONTROLLER_POINTER(weight_gg), ARU_CONTROLLER_POINTER(bias_g), \
      ARU_CONTROLLER_POINTER(weight_gc), ARU_CONTROLLER_POINTER(bias_c)
