// Element types by the codes that Python passes. Arithmetic is in float (double for double).
#pragma once

namespace pynas {

enum class DType : int { float32 = 0, float64 = 1, float16 = 2, bfloat16 = 3, int64 = 4 };

}  // namespace pynas
