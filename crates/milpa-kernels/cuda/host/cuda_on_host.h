// Lets the kernels' sources compile and run on the host, thread by thread: the language's words and
// the variables and functions of a thread. `driver.cpp` runs a block's threads as fibers of one
// thread, so what is written between two barriers is seen after them, and nothing is faster for it.
#pragma once
#include <cmath>
#include <cstdint>

#define __global__
#define __device__
#define __launch_bounds__(...)
// One block runs at a time, so its shared memory may be a static variable.
#define __shared__ static

struct Index {
    unsigned x, y, z;
};

extern Index threadIdx, blockIdx, blockDim, gridDim;

// Waits for all threads of the block.
void __syncthreads();

// The value of the lane whose number differs in the bits of `mask`; all lanes of the warp call.
float __shfl_xor_sync(unsigned lanes, float value, int mask);
