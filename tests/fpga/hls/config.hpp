// Stands for the generated header: a configuration in which all counts of groups are above 1.
#pragma once

namespace config {

constexpr unsigned HASH_LOW = 1u;
constexpr unsigned HASH_HIGH = 2u;
constexpr unsigned PORTS = 2u;
constexpr unsigned FRAMES = 2u;
constexpr unsigned TOKENS = 7u;
constexpr unsigned PAIRS = 4u;
constexpr unsigned CASCADE = 2u;
constexpr unsigned CLOCK_RATIO = 2u;
constexpr unsigned LANES = 3u;
constexpr unsigned NORM_LANES = 2u;
constexpr unsigned EXP_LANES = 4u;
constexpr unsigned SHIFT = 23u;
constexpr unsigned NORM_IN_FABRIC = 1u;
constexpr unsigned EXP_IN_FABRIC = 1u;
constexpr unsigned KEY_BANKS = 4u;
constexpr unsigned VALUE_BANKS = 4u;
constexpr unsigned INPUT_WORDS = 512u;
constexpr unsigned RESIDUAL_WORDS = 384u;
constexpr unsigned NORM_WORDS = 384u;
constexpr unsigned QUERY_WORDS = 384u;
constexpr unsigned KEY_WORDS = 960u;
constexpr unsigned VALUE_WORDS = 1576u;
constexpr unsigned SCORE_WORDS = 50u;
constexpr unsigned HIDDEN_WORDS = 1536u;
constexpr unsigned WEIGHT_WORDS = 768u;
constexpr unsigned MOMENTS_DEPTH = 32u;
constexpr unsigned MAXIMA_DEPTH = 8u;
constexpr unsigned SCALES_DEPTH = 32u;

} // namespace config

#include "tiling.hpp"
