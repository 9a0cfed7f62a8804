// RMSNorm with and without a residual sum, forward and backward, for f32 and bf16 rows.
//
// Root Mean Square Layer Normalization, arXiv:1910.07467; the scalar twins are `rms_norm_forward` and
// `rms_norm_backward` of `src/reference/layers.rs`. Sums are in f32, weights and their gradients too.
// A block is blockDim.x threads (a multiple of 32) for a row and blockDim.y rows; at most 512
// threads. No atomics: the order of every sum follows from the sizes alone, so the same input gives
// the same bits on every GPU. `src/cuda/norm.rs` chooses the sizes and knows these signatures.
#include <cstdint>

#include <cuda_bf16.h>

namespace {

constexpr int WARP = 32;
constexpr int MAX_WARPS = 16;
// Vectors of its row that a thread keeps in registers; those beyond are read twice.
constexpr int HELD = 2;
// Columns and sums per column of a block of the second stage of the weight gradient.
constexpr int TILE = 32;

template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
    T values[N];
};

__device__ float widen(float value) { return value; }
__device__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ T rounded(float value);
template <>
__device__ float rounded(float value) { return value; }
template <>
__device__ __nv_bfloat16 rounded(float value) { return __float2bfloat16_rn(value); }

template <int N, typename T>
__device__ Vector<T, N> load(const T *row, int at) {
    return reinterpret_cast<const Vector<T, N> *>(row)[at];
}

template <typename T, int N>
__device__ void store(T *row, int at, const Vector<T, N> &vector) {
    reinterpret_cast<Vector<T, N> *>(row)[at] = vector;
}

// Whether vectors of N values may be read and written at these addresses.
template <int N, typename... T>
__device__ bool is_aligned(int dim, const T *...pointers) {
    return dim % N == 0 &&
           ((reinterpret_cast<uintptr_t>(pointers) % alignof(Vector<T, N>) == 0) && ...);
}

// Sums `value` over the threads of a row and gives the sum to each; all threads of the block call.
__device__ float row_sum(float value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    if (blockDim.x == WARP) return value;

    __shared__ float sums[MAX_WARPS];
    const int warps = blockDim.x / WARP;
    const int first = threadIdx.y * warps;
    __syncthreads();  // the sums of the row before have been read
    if (threadIdx.x % WARP == 0) sums[first + threadIdx.x / WARP] = value;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll 1
    for (int warp = 0; warp < warps; ++warp) sum += sums[first + warp];
    return sum;
}

template <typename T, int N>
__device__ float sum_of_squares(const Vector<T, N> &x) {
    float sum = 0.0f;
    for (int n = 0; n < N; ++n) sum += widen(x.values[n]) * widen(x.values[n]);
    return sum;
}

// Reads a vector of the row; with a delta, adds it and writes the sum back, rounded as it is stored.
template <bool ADD, int N, typename T>
__device__ Vector<T, N> load_sum(T *x, const T *delta, int at) {
    Vector<T, N> sum = load<N>(x, at);
    if constexpr (ADD) {
        const Vector<T, N> other = load<N>(delta, at);
        for (int n = 0; n < N; ++n)
            sum.values[n] = rounded<T>(widen(sum.values[n]) + widen(other.values[n]));
        store(x, at, sum);
    }
    return sum;
}

template <typename T, int N>
__device__ void write_normed(T *y, const float *weight, int at, const Vector<T, N> &x, float inverse) {
    const Vector<float, N> w = load<N>(weight, at);
    Vector<T, N> out;
    for (int n = 0; n < N; ++n)
        out.values[n] = rounded<T>(widen(x.values[n]) * inverse * w.values[n]);
    store(y, at, out);
}

template <bool ADD, int N, typename T>
__device__ void forward(int64_t rows, int dim, float eps, T *x, const T *delta, const float *weight,
                        T *y, float *inverse_rms) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
    // A thread without a row reads and writes nothing, but takes part in the sums.
    const int vectors = row < rows ? dim / N : 0;
    const int64_t start = row * dim;
    x += start;
    delta += start;
    y += start;

    const int threads = blockDim.x;
    Vector<T, N> held[HELD];
    float squares = 0.0f;
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        const int at = threadIdx.x + k * threads;
        if (at < vectors) {
            held[k] = load_sum<ADD, N>(x, delta, at);
            squares += sum_of_squares(held[k]);
        }
    }
#pragma unroll 1
    for (int at = threadIdx.x + HELD * threads; at < vectors; at += threads)
        squares += sum_of_squares(load_sum<ADD, N>(x, delta, at));

    const float inverse = 1.0f / sqrtf(row_sum(squares) / dim + eps);
#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        const int at = threadIdx.x + k * threads;
        if (at < vectors) write_normed(y, weight, at, held[k], inverse);
    }
#pragma unroll 1
    for (int at = threadIdx.x + HELD * threads; at < vectors; at += threads)
        write_normed(y, weight, at, load<N>(x, at), inverse);
    if (vectors > 0 && threadIdx.x == 0) inverse_rms[row] = inverse;
}

template <typename T, int N>
__device__ float dot(const Vector<T, N> &x, const Vector<T, N> &dy, const Vector<float, N> &weight) {
    float sum = 0.0f;
    for (int n = 0; n < N; ++n) sum += widen(dy.values[n]) * weight.values[n] * widen(x.values[n]);
    return sum;
}

// Writes a vector of dx, or adds to it.
template <typename T, int N>
__device__ void write_dx(T *dx, int at, bool accumulate, const Vector<T, N> &x, const Vector<T, N> &dy,
                         const Vector<float, N> &weight, float inverse, float mean) {
    Vector<T, N> out;
    if (accumulate) out = load<N>(dx, at);
    for (int n = 0; n < N; ++n) {
        const float value =
            inverse * (widen(dy.values[n]) * weight.values[n] - widen(x.values[n]) * mean);
        out.values[n] = rounded<T>(accumulate ? widen(out.values[n]) + value : value);
    }
    store(dx, at, out);
}

// Part p takes rows p, p + parts, ...; its sums over them for dweight go to partial[p, dim].
template <int N, typename T>
__device__ void backward(int64_t rows, int dim, const T *x, const float *weight,
                         const float *inverse_rms, const T *dy, T *dx, bool accumulate,
                         float *partial) {
    const int threads = blockDim.x;
    const int64_t parts = static_cast<int64_t>(gridDim.x) * blockDim.y;
    const int64_t first_part = static_cast<int64_t>(blockIdx.x) * blockDim.y;
    partial += (first_part + threadIdx.y) * dim;

    float sums[HELD][N] = {};
#pragma unroll 1
    for (int at = threadIdx.x + HELD * threads; at < dim / N; at += threads)
        store(partial, at, Vector<float, N>{});

    // The loop is the same for all threads of the block, because the sums wait for all of them.
#pragma unroll 1
    for (int64_t first = first_part; first < rows; first += parts) {
        const int64_t row = first + threadIdx.y;
        const int vectors = row < rows ? dim / N : 0;
        const T *x_row = x + row * dim;
        const T *dy_row = dy + row * dim;
        T *dx_row = dx + row * dim;
        const float inverse = row < rows ? inverse_rms[row] : 0.0f;

        Vector<T, N> x_held[HELD], dy_held[HELD];
        float product = 0.0f;
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const int at = threadIdx.x + k * threads;
            if (at < vectors) {
                x_held[k] = load<N>(x_row, at);
                dy_held[k] = load<N>(dy_row, at);
                product += dot(x_held[k], dy_held[k], load<N>(weight, at));
            }
        }
#pragma unroll 1
        for (int at = threadIdx.x + HELD * threads; at < vectors; at += threads)
            product += dot(load<N>(x_row, at), load<N>(dy_row, at), load<N>(weight, at));

        const float mean = row_sum(product) * inverse * inverse / dim;
#pragma unroll
        for (int k = 0; k < HELD; ++k) {
            const int at = threadIdx.x + k * threads;
            if (at < vectors) {
                write_dx(dx_row, at, accumulate, x_held[k], dy_held[k], load<N>(weight, at), inverse,
                         mean);
                for (int n = 0; n < N; ++n)
                    sums[k][n] += widen(dy_held[k].values[n]) * widen(x_held[k].values[n]) * inverse;
            }
        }
#pragma unroll 1
        for (int at = threadIdx.x + HELD * threads; at < vectors; at += threads) {
            const Vector<T, N> x_at = load<N>(x_row, at), dy_at = load<N>(dy_row, at);
            write_dx(dx_row, at, accumulate, x_at, dy_at, load<N>(weight, at), inverse, mean);
            Vector<float, N> sum = load<N>(partial, at);
            for (int n = 0; n < N; ++n)
                sum.values[n] += widen(dy_at.values[n]) * widen(x_at.values[n]) * inverse;
            store(partial, at, sum);
        }
    }

#pragma unroll
    for (int k = 0; k < HELD; ++k) {
        const int at = threadIdx.x + k * threads;
        if (at < dim / N) {
            Vector<float, N> sum;
            for (int n = 0; n < N; ++n) sum.values[n] = sums[k][n];
            store(partial, at, sum);
        }
    }
}

}  // namespace

// Rows of 16-byte vectors where sizes and addresses allow it, else value by value.
#define RMS_NORM_KERNELS(T, NAME)                                                                   \
    extern "C" __global__ void __launch_bounds__(WARP *MAX_WARPS) rms_norm_forward_##NAME(          \
        int64_t rows, int dim, float eps, T *x, const float *weight, T *y, float *inverse_rms) {    \
        constexpr int N = 16 / sizeof(T);                                                           \
        if (is_aligned<N>(dim, x, weight, y))                                                       \
            forward<false, N>(rows, dim, eps, x, x, weight, y, inverse_rms);                        \
        else                                                                                        \
            forward<false, 1>(rows, dim, eps, x, x, weight, y, inverse_rms);                        \
    }                                                                                               \
    extern "C" __global__ void __launch_bounds__(WARP *MAX_WARPS) add_rms_norm_forward_##NAME(      \
        int64_t rows, int dim, float eps, T *residual, const T *delta, const float *weight, T *y,   \
        float *inverse_rms) {                                                                       \
        constexpr int N = 16 / sizeof(T);                                                           \
        if (is_aligned<N>(dim, residual, delta, weight, y))                                         \
            forward<true, N>(rows, dim, eps, residual, delta, weight, y, inverse_rms);              \
        else                                                                                        \
            forward<true, 1>(rows, dim, eps, residual, delta, weight, y, inverse_rms);              \
    }                                                                                               \
    extern "C" __global__ void __launch_bounds__(WARP *MAX_WARPS) rms_norm_backward_##NAME(         \
        int64_t rows, int dim, const T *x, const float *weight, const float *inverse_rms,           \
        const T *dy, T *dx, int accumulate, float *partial) {                                       \
        constexpr int N = 16 / sizeof(T);                                                           \
        if (is_aligned<N>(dim, x, weight, dy, dx, partial))                                         \
            backward<N>(rows, dim, x, weight, inverse_rms, dy, dx, accumulate != 0, partial);       \
        else                                                                                        \
            backward<1>(rows, dim, x, weight, inverse_rms, dy, dx, accumulate != 0, partial);       \
    }

RMS_NORM_KERNELS(float, f32)
RMS_NORM_KERNELS(__nv_bfloat16, bf16)

// dweight[column] += the sum of partial[parts, dim] over the parts; blocks of 32 × 32 threads.
extern "C" __global__ void __launch_bounds__(TILE *TILE)
    rms_norm_sum_parts(int parts, int dim, const float *partial, float *dweight) {
    __shared__ float sums[TILE][TILE + 1];
    const int column = blockIdx.x * TILE + threadIdx.x;
    float sum = 0.0f;
    if (column < dim)
#pragma unroll 4
        for (int part = threadIdx.y; part < parts; part += TILE)
            sum += partial[static_cast<int64_t>(part) * dim + column];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= dim) return;
    float total = 0.0f;
    for (int y = 0; y < TILE; ++y) total += sums[y][threadIdx.x];
    dweight[column] += total;
}
