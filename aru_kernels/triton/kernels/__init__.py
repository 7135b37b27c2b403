"""The kernels: functions under `triton.jit` and their constants.  The modules of `aru_kernels.triton` launch them."""
