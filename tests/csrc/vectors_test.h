// Checks of the vectors, compiled once per instruction set and run where the processor has it.
#pragma once

struct VectorCheck {
  const char* isa;
  const char* (*run)();  // what is wrong, or null
};

void add_vector_check(VectorCheck check);
