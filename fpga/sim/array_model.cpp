#include "array_model.hpp"

#include <algorithm>
#include <cstring>

namespace sim {

namespace timing = isa::timing;

namespace {

int64_t sign_extend(int64_t value, unsigned bits) {
  return int64_t(uint64_t(value) << (64 - bits)) >> (64 - bits);
}

} // namespace

ArrayModel::ArrayModel(const ArrayMemories& memories) : memories_(memories) {
  for (auto& half : double_buffer_)
    half.resize(size_t(bank_words(config::WEIGHT_WORDS)) * WORD_BYTES);
  for (int byte = 0; byte < 256; ++byte) {
    const int high = int8_t(byte) >> 4, low = byte & 15;
    const double upper = double(high) * double(int64_t(1) << config::SHIFT);
    weights_of_byte_[0][byte] = upper + low;
    weights_of_byte_[1][byte] = upper + (low < 8 ? low : low - 16);
  }
  posted_.push_back(1); // after a reset load may write `input`
}

ArrayOutputs ArrayModel::step(const ArrayInputs& in) {
  if (took_sums_)
    sums_.pop_front();
  if (took_scores_)
    scores_.pop_front();

  ArrayOutputs out;
  const unsigned slot = taken_ % timing::DESCRIPTORS;
  out.takes_pass = taken_ - started_ < timing::DESCRIPTORS &&
                   (taken_ < timing::DESCRIPTORS || starts_[slot] / R + 1 <= now_);
  out.takes_demand = !has_demand_;
  out.credit = !posted_.empty() && posted_.front() <= now_;
  if (!sums_.empty() && sums_.front().visible <= now_)
    out.sums = &sums_.front().item;
  if (!scores_.empty() && scores_.front().visible <= now_)
    out.scores = &scores_.front().item;

  leave();
  out.takes_beat = wants_beat();
  if (out.takes_beat && in.beat != nullptr)
    take_beat(*in.beat);
  if (has_demand_ && tiles_ == 0) {
    tiles_ = unsigned(demand_.tiles);
    tile_words_ = unsigned(demand_.words);
    tiles_from_ = now_ + timing::DEMAND_TO_FILL - 1;
    has_demand_ = false;
    event();
  } else if (out.takes_demand && in.demand != nullptr) {
    demand_ = *in.demand;
    has_demand_ = true;
    event();
  }
  if (out.takes_pass && in.pass != nullptr)
    take_pass(*in.pass);
  start_passes();
  for (; !ends_.empty() && ends_.front() <= now_; ends_.pop_front())
    ++out.retired;
  // All conditions of the next pass hold, except its weights.
  out.starved = !waiting_.empty() && waiting_.front().fill > 0 && other_bounds() <= R * now_ &&
                weights_bound() > other_bounds();

  took_sums_ = out.sums != nullptr && in.takes_sums;
  took_scores_ = out.scores != nullptr && in.takes_scores;
  if (out.credit && in.takes_credit)
    posted_.pop_front();
  if (took_sums_ || took_scores_ || (out.credit && in.takes_credit))
    event();
  ++now_;
  return out;
}

void ArrayModel::take_pass(const packed_pass_t& packed) {
  const isa::Pass pass = isa::Pass::decode(packed);
  pairs_ += unsigned(pass.pairs);
  uint64_t fill = 0;
  if (pass.operand == isa::operand::WEIGHTS) {
    fill = fill_;
    if (pass.frees == 1)
      ++fill_;
  }
  waiting_.push_back({pass, now_ + timing::PREPARE, fill, pairs_});
  ++taken_;
  event();
}

uint64_t ArrayModel::weights_bound() const {
  const Waiting& next = waiting_.front();
  if (next.fill == 0)
    return 0;
  return fills_ < next.fill ? NEVER : R * (finished_[next.fill % 2] + 1) + timing::FILLED_TO_START;
}

uint64_t ArrayModel::other_bounds() const {
  const Waiting& next = waiting_.front();
  uint64_t start = R * next.prepared + timing::DESCRIPTOR_TO_START;
  if (started_ > 0) {
    const unsigned words = unsigned(next.pass.words);
    const uint64_t gap = last_pairs_ > words ? last_pairs_ - words : 0;
    start = std::max({start, last_end_ + 1 + gap, last_start_ + timing::ISSUE_INTERVAL});
  }
  if (next.pairs > timing::FIFO_DEPTH) {
    const uint64_t leaves = next.pairs - timing::FIFO_DEPTH - 1; // this pair must have left
    if (departed_ <= leaves)
      return NEVER;
    start = std::max(start, R * (departures_[leaves % DEPARTURES] + 1) + timing::ROOM_TO_START);
  }
  return start;
}

void ArrayModel::start_passes() {
  while (!waiting_.empty()) {
    const uint64_t start = std::max(weights_bound(), other_bounds());
    if (start > R * now_ + R - 1)
      return;
    const isa::Pass pass = waiting_.front().pass;
    const unsigned half_in_use = (waiting_.front().fill + 1) % 2; // fill 1 is in the first half
    waiting_.pop_front();
    const uint64_t end = start + unsigned(pass.words) - 1;
    starts_[started_ % timing::DESCRIPTORS] = start;
    ++started_;
    last_start_ = start;
    last_end_ = end;
    last_pairs_ = unsigned(pass.pairs);
    ends_.push_back(end / R + 1);
    multiply(pass, half_in_use, end);
    const uint64_t ended = (end + timing::END_TO_FREED) / R + 1;
    if (pass.frees == 1)
      freed_.push_back(ended);
    if (pass.post_load == 1)
      posted_.push_back(ended);
    event((end + TO_FIFO + P) / R);
  }
}

template <unsigned LANES_, typename Memory>
void ArrayModel::read_group(Memory& memory, unsigned first_group, unsigned address, unsigned lane) {
  for (unsigned group = 0; group * LANES_ < T; ++group) {
    const auto& word = memory.at((first_group + group) * C + lane, address);
    for (unsigned i = 0; i < LANES_ && group * LANES_ + i < T; ++i)
      activation_[group * LANES_ + i] = double(int(word[i]));
  }
}

void ArrayModel::read_activations(const isa::Pass& pass, unsigned word, unsigned lane) {
  const unsigned address = unsigned(pass.address) + word, bank = unsigned(pass.bank);
  switch (unsigned(pass.source)) {
  case isa::activations::INPUT:
    return read_group<L>(memories_.input, 0, address, lane);
  case isa::activations::NORMED:
    return read_group<config::NORM_LANES>(memories_.normed, bank * NORM_GROUPS, address, lane);
  case isa::activations::QUERY:
    return read_group<L>(memories_.query, 0, address, lane);
  case isa::activations::HIDDEN:
    return read_group<L>(memories_.hidden, 0, address, lane);
  default:
    return read_group<config::EXP_LANES>(memories_.probability, bank * EXP_GROUPS, address, lane);
  }
}

void ArrayModel::read_operands(const isa::Pass& pass, unsigned half_in_use, unsigned word,
                               unsigned lane) {
  const unsigned pairs = unsigned(pass.pairs), pairs4 = unsigned(pass.pairs4);
  const unsigned address = unsigned(pass.row_address) + word, bank = unsigned(pass.row_bank);
  const auto place = [&](unsigned i, uint8_t byte) {
    operand_[i] = weights_of_byte_[i < pairs4][byte];
  };
  if (pass.operand == isa::operand::WEIGHTS) {
    const std::vector<uint8_t>& half = double_buffer_[half_in_use];
    for (unsigned i = 0; i < pairs; ++i)
      place(i, half.at(size_t(address) * WORD_BYTES + lane * P + P - 1 - i));
  } else if (pass.operand == isa::operand::KEY) {
    for (unsigned i = 0; i < pairs; ++i)
      place(i, uint8_t(int(memories_.key.at(bank + i, address)[lane])));
  } else {
    constexpr unsigned BANKS = config::VALUE_BANKS;
    for (unsigned i = 0; i < pairs; ++i) {
      const unsigned next = bank + i >= BANKS ? unsigned(pass.next_block) : 0;
      const auto& stored =
          memories_.value.at((unsigned(pass.rotation) + word + i) % BANKS, address + next);
      place(i, uint8_t(int(stored[lane])));
    }
  }
}

void ArrayModel::multiply(const isa::Pass& pass, unsigned half_in_use, uint64_t end) {
  const unsigned words = unsigned(pass.words), pairs = unsigned(pass.pairs);
  for (unsigned i = 0; i < pairs; ++i)
    std::fill_n(packed_[i], WIDTH, 0.0);
  for (unsigned word = 0; word < words; ++word) {
    const unsigned lanes = word + 1 == words ? unsigned(pass.tail) : C;
    for (unsigned lane = 0; lane < lanes; ++lane) {
      read_activations(pass, word, lane);
      read_operands(pass, half_in_use, word, lane);
      for (unsigned i = 0; i < pairs; ++i) {
        const double operand = operand_[i];
        double* sum = packed_[i];
        for (unsigned t = 0; t < WIDTH; ++t)
          sum[t] += operand * activation_[t];
      }
    }
  }
  for (unsigned i = 0; i < pairs; ++i) {
    const bool four_bit = i < unsigned(pass.pairs4);
    const bool two = four_bit && !(pass.single == 1 && i + 1 == unsigned(pass.pairs4));
    Pair pair{};
    pair.arrived = end + TO_FIFO + i;
    pair.scores = pass.scores == 1;
    pair.last = pass.last == 1;
    pair.rows = two ? 2 : 1;
    pair.groups = unsigned(pass.groups);
    for (unsigned t = 0; t < T; ++t) {
      const int64_t sum = sign_extend(int64_t(packed_[i][t]), 48);
      const int64_t field = sum & ((int64_t(1) << config::SHIFT) - 1);
      const int64_t low = pass.unsigned_a == 1 ? field : sign_extend(field, config::SHIFT);
      const int64_t high = (sum - low) >> config::SHIFT;
      pair.row[0][t] = int32_t(four_bit ? low : 16 * high + low);
      pair.row[1][t] = int32_t(high);
      for (unsigned row = 0; row < 2; ++row) {
        if (pass.first == 0)
          pair.row[row][t] += partial_[i][row][t];
        partial_[i][row][t] = pair.row[row][t];
      }
    }
    arriving_.push_back(pair);
  }
}

void ArrayModel::leave() {
  if (arriving_.empty())
    return;
  const Pair& pair = arriving_.front();
  if (now_ < pair.arrived / R + timing::FIFO_TO_ITEM)
    return;
  unsigned items = pair.rows * pair.groups;
  if (pair.scores) {
    if (scores_.size() == timing::OUTPUTS)
      return;
    Output<score_row_t> output;
    output.visible = now_ + timing::ITEM_TO_SCORES;
    for (unsigned t = 0; t < T; ++t)
      output.item[t] = pair.row[0][t];
    scores_.push_back(output);
    items = 1;
  } else if (pair.last) {
    if (sums_.size() == timing::OUTPUTS)
      return;
    Output<sums_t> output;
    output.visible = now_ + timing::ITEM_TO_SUMS;
    const Row& row = pair.row[item_ / pair.groups];
    for (unsigned lane = 0; lane < L; ++lane)
      output.item[lane] = row[item_ % pair.groups * L + lane];
    sums_.push_back(output);
  }
  event();
  if (++item_ == items) {
    item_ = 0;
    departures_[departed_ % DEPARTURES] = now_;
    ++departed_;
    arriving_.pop_front();
  }
}

bool ArrayModel::wants_beat() {
  if (!filling_) {
    const bool free = fills_ < 2 || (!freed_.empty() && freed_.front() < now_);
    if (tiles_ == 0 || now_ < tiles_from_ || !free)
      return false;
    if (fills_ >= 2)
      freed_.pop_front();
    --tiles_;
    filling_ = true;
    words_ = tile_words_;
    word_ = 0;
    bytes_.clear();
    event();
  }
  if (bytes_.size() >= WORD_BYTES) {
    std::vector<uint8_t>& half = double_buffer_[fills_ % 2];
    if ((word_ + 1) * size_t(WORD_BYTES) > half.size())
      throw Trap("weights: word " + std::to_string(word_) + " is beyond the buffer");
    std::copy_n(bytes_.begin(), WORD_BYTES, half.begin() + ptrdiff_t(word_) * WORD_BYTES);
    bytes_.erase(bytes_.begin(), bytes_.begin() + WORD_BYTES);
    event();
    if (++word_ == words_) {
      ++fills_;
      finished_[fills_ % 2] = now_;
      filling_ = false;
      return false;
    }
  }
  return bytes_.size() < WORD_BYTES;
}

void ArrayModel::take_beat(const beat_t& beat) {
  bytes_.insert(bytes_.end(), beat.byte, beat.byte + sizeof(beat.byte));
  event();
}

std::unique_ptr<ArrayCore> make_array(const ArrayMemories& memories) {
  return std::make_unique<ArrayModel>(memories);
}

} // namespace sim
