// norm_elu.hpp, for bfloat16_kernels.cpp, which includes this within its own namespace and target.

namespace {

// e^x for x <= 0, with a relative error of 1e-5, far below bfloat16's: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2].
inline __m512 exponential(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  const __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.69314718f), x);
  __m512 p = _mm512_set1_ps(1.0f / 24.0f);
  for (const float c : {1.0f / 6.0f, 0.5f, 1.0f, 1.0f}) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  return _mm512_scalef_ps(p, n);
}

// A row x + bias, in float32, and its moments.
struct Row {
  __m512 mean, rstd;

  Row(const NormElu& task, const std::uint16_t* x, const float* bias, float* sums) {
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (std::size_t c = 0; c < task.width; c += 16) {
      const __m512 value = _mm512_add_ps(widen(x + c), _mm512_loadu_ps(bias + c));
      _mm512_store_ps(sums + c, value);
      sum = _mm512_add_ps(sum, value);
    }
    const float share = 1.0f / static_cast<float>(task.width);
    mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) * share);
    for (std::size_t c = 0; c < task.width; c += 16) {
      const __m512 value = _mm512_sub_ps(_mm512_load_ps(sums + c), mean);
      squares = _mm512_fmadd_ps(value, value, squares);
    }
    rstd = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) * share + task.eps));
  }

  __m512 standardised(const float* sums) const { return _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(sums), mean), rstd); }
};

inline void add(float* to, __m512 x) { _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), x)); }

}  // namespace

void norm_elu(const NormElu& task, std::uint16_t* out) {
  Floats sums(task.width);
  const __m512 zero = _mm512_setzero_ps();
  for (std::size_t k = 0; k < task.networks; ++k) {
    const float *gain = task.gain + k * task.width, *shift = task.shift + k * task.width;
    for (std::size_t b = 0; b < task.rows; ++b) {
      const std::size_t at = (k * task.rows + b) * task.width;
      const Row row(task, task.x + at, task.bias + k * task.width, sums);
      for (std::size_t c = 0; c < task.width; c += 16) {
        const __m512 y =
            _mm512_fmadd_ps(row.standardised(sums + c), _mm512_loadu_ps(gain + c), _mm512_loadu_ps(shift + c));
        const __m512 below = _mm512_sub_ps(exponential(_mm512_min_ps(y, zero)), _mm512_set1_ps(1.0f));
        narrow(_mm512_mask_mov_ps(below, _mm512_cmp_ps_mask(y, zero, _CMP_GT_OQ), y), out + at + c);
      }
    }
  }
}

void norm_elu_backward(const NormElu& task, const std::uint16_t* grad_out, std::uint16_t* grad_x, float* grad_bias,
                       float* grad_gain, float* grad_shift) {
  Floats sums(task.width), scaled(task.width);
  const __m512 zero = _mm512_setzero_ps();
  for (float* grad : {grad_bias, grad_gain, grad_shift}) std::memset(grad, 0, 4 * task.networks * task.width);
  for (std::size_t k = 0; k < task.networks; ++k) {
    const std::size_t first = k * task.width;
    const float *gain = task.gain + first, *shift = task.shift + first;
    for (std::size_t b = 0; b < task.rows; ++b) {
      const std::size_t at = (k * task.rows + b) * task.width;
      const Row row(task, task.x + at, task.bias + first, sums);
      // Back through the ELU, whose slope below 0 is e^y, to what the norm gave.
      __m512 sum = zero, product = zero;
      for (std::size_t c = 0; c < task.width; c += 16) {
        const __m512 z = row.standardised(sums + c), g = _mm512_loadu_ps(gain + c);
        const __m512 y = _mm512_fmadd_ps(z, g, _mm512_loadu_ps(shift + c));
        const __m512 grad = _mm512_mul_ps(widen(grad_out + at + c), exponential(_mm512_min_ps(y, zero)));
        add(grad_shift + first + c, grad);
        add(grad_gain + first + c, _mm512_mul_ps(grad, z));
        const __m512 through = _mm512_mul_ps(grad, g);
        _mm512_store_ps(scaled + c, through);
        sum = _mm512_add_ps(sum, through);
        product = _mm512_fmadd_ps(through, z, product);
      }
      // And through the norm, which takes out the mean and what is along the row itself.
      const float share = 1.0f / static_cast<float>(task.width);
      const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) * share);
      const __m512 slope = _mm512_set1_ps(_mm512_reduce_add_ps(product) * share);
      for (std::size_t c = 0; c < task.width; c += 16) {
        const __m512 inner = _mm512_sub_ps(_mm512_load_ps(scaled + c), mean);
        const __m512 grad =
            _mm512_mul_ps(_mm512_fnmadd_ps(row.standardised(sums + c), slope, inner), row.rstd);
        add(grad_bias + first + c, grad);
        narrow(grad, grad_x + at + c);
      }
    }
  }
}
