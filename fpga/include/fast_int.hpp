// Native integers in place of ap_uint and ap_int, for fast simulation. A value wraps to W bits when
// it is stored. An expression is evaluated in `int` up to 15 bits (a product of two fits), in
// `int64_t` up to 63 bits and in __int128 beyond; ap_int would widen it. The results are equal if
// no intermediate value exceeds these types; the ap_int build of each test confirms this. With
// QUASAR_CHECKED a store that would wrap traps.
#pragma once

#include <cstdint>
#include <type_traits>

namespace fast {

template <int W, bool SIGNED> class Integer {
  static_assert(W >= 1 && W <= 127, "no native type holds it");
  static constexpr int MAGNITUDE = SIGNED ? W - 1 : W;

public:
  // The type of the value in an expression.
  using Value = std::conditional_t<MAGNITUDE <= 15, int,
                                   std::conditional_t<MAGNITUDE <= 63, int64_t, __int128>>;

private:
  using Narrow =
      std::conditional_t<MAGNITUDE <= 31, std::conditional_t<SIGNED, int32_t, uint32_t>, Value>;
  using Byte = std::conditional_t<SIGNED, int8_t, uint8_t>;
  using Half = std::conditional_t<SIGNED, int16_t, uint16_t>;
  using Storage = std::conditional_t<W <= 8, Byte, std::conditional_t<W <= 16, Half, Narrow>>;

  Storage value_;

  template <typename N> static constexpr Storage wrap(N n) {
    if constexpr (W == 8 * sizeof(Storage)) {
      return static_cast<Storage>(n);
    } else if constexpr (sizeof(N) > 8 || W > 63) {
      constexpr int SPARE = 128 - W;
      auto shifted = static_cast<unsigned __int128>(static_cast<__int128>(n)) << SPARE;
      if constexpr (SIGNED)
        return static_cast<Storage>(static_cast<__int128>(shifted) >> SPARE);
      else
        return static_cast<Storage>(shifted >> SPARE);
    } else if constexpr (W > 31 || sizeof(N) > 4) {
      constexpr int SPARE = 64 - W;
      const uint64_t shifted = static_cast<uint64_t>(n) << SPARE;
      if constexpr (SIGNED)
        return static_cast<Storage>(static_cast<int64_t>(shifted) >> SPARE);
      else
        return static_cast<Storage>(shifted >> SPARE);
    } else {
      constexpr int SPARE = 32 - W;
      const uint32_t shifted = static_cast<uint32_t>(n) << SPARE;
      if constexpr (SIGNED)
        return static_cast<Storage>(static_cast<int32_t>(shifted) >> SPARE);
      else
        return static_cast<Storage>(shifted >> SPARE);
    }
  }

public:
  Integer() = default;
  template <typename N,
            typename = std::enable_if_t<std::is_integral_v<N> || std::is_same_v<N, __int128> ||
                                        std::is_same_v<N, unsigned __int128>>>
  constexpr Integer(N n) : value_(wrap(n)) {
#ifdef QUASAR_CHECKED
    if (static_cast<__int128>(value_) != static_cast<__int128>(n))
      __builtin_trap();
#endif
  }
  template <int V, bool OTHER>
  constexpr Integer(const Integer<V, OTHER>& other)
      : value_(wrap(static_cast<typename Integer<V, OTHER>::Value>(other))) {}

  constexpr operator Value() const { return static_cast<Value>(value_); }

  template <typename N> Integer& operator+=(N n) { return *this = Integer(Value(*this) + n); }
  template <typename N> Integer& operator-=(N n) { return *this = Integer(Value(*this) - n); }
  template <typename N> Integer& operator|=(N n) { return *this = Integer(Value(*this) | n); }
  template <typename N> Integer& operator&=(N n) { return *this = Integer(Value(*this) & n); }
  template <typename N> Integer& operator>>=(N n) { return *this = Integer(Value(*this) >> n); }
  template <typename N> Integer& operator<<=(N n) { return *this = Integer(Value(*this) << n); }
  Integer& operator++() { return *this += 1; }
  Integer& operator--() { return *this -= 1; }
  Integer operator++(int) {
    const Integer before = *this;
    *this += 1;
    return before;
  }
};

} // namespace fast
