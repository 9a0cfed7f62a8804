// A stand-in for `libcuda.so.1` that runs the kernels on the host, for machines without a GPU.
//
// It has the entry points that `src/cuda/driver.rs` loads, so loading, launching and the kernels' own
// logic are tested against the scalar twins as on a GPU: every index, barrier and order of sums. What
// it cannot show: races between threads, the memory model, the compiled cubin, speed.
// Built and run by `cargo xtask kernels --on-host`.
#include <ucontext.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda_on_host.h"

#include "../rms_norm.cu"

Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr unsigned LANES = 32;
constexpr size_t STACK_BYTES = 64 * 1024;

// Counts who has arrived; the last one lets all go on.
struct Barrier {
    unsigned arrived = 0;
    unsigned round = 0;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    Index index;
    bool done;
};

struct Warp {
    Barrier barrier;
    float values[LANES];
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
Barrier block_barrier;
ucontext_t scheduler;
unsigned current;
std::function<void()> body;

unsigned block_threads() { return blockDim.x * blockDim.y; }

void wait_at(Barrier &barrier, unsigned threads) {
    const unsigned round = barrier.round;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        ++barrier.round;
        return;
    }
    while (barrier.round == round) swapcontext(&fibers[current].context, &scheduler);
}

void run_fiber() {
    body();
    fibers[current].done = true;
}

void run_block() {
    const unsigned threads = block_threads();
    while (fibers.size() < threads) fibers.emplace_back();
    warps.assign((threads + LANES - 1) / LANES, Warp{});
    block_barrier = Barrier{};
    for (unsigned at = 0; at < threads; ++at) {
        Fiber &fiber = fibers[at];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = &scheduler;
        fiber.index = {at % blockDim.x, at / blockDim.x, 0};
        fiber.done = false;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (bool busy = true; busy;) {
        busy = false;
        for (current = 0; current < threads; ++current) {
            if (fibers[current].done) continue;
            busy = true;
            threadIdx = fibers[current].index;
            swapcontext(&scheduler, &fibers[current].context);
        }
    }
}

using Kernel = std::function<void(void **)>;

template <typename... Parameters, size_t... At>
void call(void (*kernel)(Parameters...), void **arguments, std::index_sequence<At...>) {
    kernel(*static_cast<Parameters *>(arguments[At])...);
}

template <typename... Parameters>
Kernel kernel(void (*function)(Parameters...)) {
    return [function](void **arguments) {
        call(function, arguments, std::index_sequence_for<Parameters...>{});
    };
}

#define KERNEL(NAME) {#NAME, kernel(NAME)}
std::map<std::string, Kernel> kernels = {
    KERNEL(rms_norm_forward_f32),      KERNEL(rms_norm_forward_bf16),
    KERNEL(add_rms_norm_forward_f32),  KERNEL(add_rms_norm_forward_bf16),
    KERNEL(rms_norm_backward_f32),     KERNEL(rms_norm_backward_bf16),
    KERNEL(rms_norm_sum_parts),
};

enum Status : unsigned { SUCCESS = 0, INVALID_VALUE = 1, NOT_FOUND = 500 };

int dummy;  // what handles point to

}  // namespace

void __syncthreads() { wait_at(block_barrier, block_threads()); }

float __shfl_xor_sync(unsigned, float value, int mask) {
    const unsigned thread = current;
    Warp &warp = warps[thread / LANES];
    warp.values[thread % LANES] = value;
    wait_at(warp.barrier, LANES);
    const float other = warp.values[(thread % LANES) ^ mask];
    wait_at(warp.barrier, LANES);
    return other;
}

extern "C" {
unsigned cuInit(unsigned) { return SUCCESS; }
unsigned cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
unsigned cuGetErrorName(unsigned status, const char **text) {
    *text = status == NOT_FOUND ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_INVALID_VALUE";
    return SUCCESS;
}
unsigned cuGetErrorString(unsigned, const char **text) { return *text = "on the host", SUCCESS; }
unsigned cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
unsigned cuDeviceGet(int *device, int index) { return *device = index, SUCCESS; }
unsigned cuDeviceGetName(char *name, int length, int) {
    std::strncpy(name, "stand-in on the host", length - 1);
    return SUCCESS;
}
unsigned cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = size_t{1} << 30, SUCCESS; }
unsigned cuDeviceGetAttribute(int *value, int attribute, int) {
    const std::map<int, int> values = {{16, 1}, {75, 9}, {76, 0}};
    return *value = values.at(attribute), SUCCESS;
}
unsigned cuDevicePrimaryCtxRetain(void **context, int) { return *context = &dummy, SUCCESS; }
unsigned cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
unsigned cuCtxSetCurrent(void *) { return SUCCESS; }
unsigned cuModuleLoadData(void **module, const void *image) {
    *module = &dummy;
    return std::memcmp(image, "\177ELF", 4) == 0 ? SUCCESS : INVALID_VALUE;
}
unsigned cuModuleUnload(void *) { return SUCCESS; }
unsigned cuModuleGetFunction(void **function, void *, const char *name) {
    const auto found = kernels.find(name);
    if (found == kernels.end()) return NOT_FOUND;
    return *function = &found->second, SUCCESS;
}
unsigned cuStreamCreate(void **stream, unsigned) { return *stream = &dummy, SUCCESS; }
unsigned cuStreamSynchronize(void *) { return SUCCESS; }
unsigned cuStreamDestroy_v2(void *) { return SUCCESS; }

using Clock = std::chrono::steady_clock;
unsigned cuEventCreate(void **event, unsigned) { return *event = new Clock::time_point, SUCCESS; }
unsigned cuEventRecord(void *event, void *) {
    *static_cast<Clock::time_point *>(event) = Clock::now();
    return SUCCESS;
}
unsigned cuEventSynchronize(void *) { return SUCCESS; }
unsigned cuEventElapsedTime(float *milliseconds, void *begin, void *end) {
    const auto time = *static_cast<Clock::time_point *>(end) - *static_cast<Clock::time_point *>(begin);
    *milliseconds = std::chrono::duration<float, std::milli>(time).count();
    return SUCCESS;
}
unsigned cuEventDestroy_v2(void *event) { return delete static_cast<Clock::time_point *>(event), SUCCESS; }

// Memory begins as not-a-number, so that what is read before it is written shows.
unsigned cuMemAlloc_v2(uint64_t *pointer, size_t bytes) {
    void *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(memory, 0xff, bytes);
    *pointer = reinterpret_cast<uint64_t>(memory);
    return SUCCESS;
}
unsigned cuMemFree_v2(uint64_t pointer) { return std::free(reinterpret_cast<void *>(pointer)), SUCCESS; }
unsigned cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *) {
    return std::memcpy(reinterpret_cast<void *>(to), from, bytes), SUCCESS;
}
unsigned cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *) {
    return std::memcpy(to, reinterpret_cast<void *>(from), bytes), SUCCESS;
}
unsigned cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *) {
    return std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes), SUCCESS;
}
unsigned cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x,
                        unsigned y, unsigned z, unsigned shared, void *, void **arguments, void **) {
    const bool one_dimensional = grid_y == 1 && grid_z == 1 && z == 1 && shared == 0;
    if (!one_dimensional || x * y == 0 || x * y > 1024 || grid_x == 0) return INVALID_VALUE;
    gridDim = {grid_x, 1, 1};
    blockDim = {x, y, 1};
    body = [=] { (*static_cast<Kernel *>(function))(arguments); };
    for (unsigned block = 0; block < grid_x; ++block) {
        blockIdx = {block, 0, 0};
        run_block();
    }
    return SUCCESS;
}
}
