// Long calls listen to Ctrl-C. A kernel whose time has no bound holds a Listening, and its loops tick. The thread that
// called asks now and then whether to stop; then the loops of all its threads throw Interrupted, which frees their memory.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>

namespace pynas {

struct Interrupted {};

// Asks whoever knows: the bindings ask Python. Made and asked by the thread that called.
class StopQuestion {
 public:
  virtual ~StopQuestion() = default;
  virtual bool stop() = 0;
};
// Sets how the question is made. Until then nothing is asked.
void set_stop_question(std::unique_ptr<StopQuestion> (*make)());

class Listening {
 public:
  Listening();
  ~Listening();
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;

  // Throws Interrupted when the call has to stop.
  void check() {
    ask();
    if (stopped_.load(std::memory_order_relaxed)) throw Interrupted();
  }
  // In the calling thread, asks, unless it did so a moment ago.
  void ask();

 private:
  const std::thread::id caller_ = std::this_thread::get_id();
  std::atomic<bool> stopped_{false};
  std::unique_ptr<StopQuestion> question_;
  std::chrono::steady_clock::time_point next_;
  Listening* before_;
};

// The listening call that this thread works for, or null.
Listening*& listening();

inline void check_interrupt() {
  if (Listening* call = listening()) call->check();
}

// Counts the rounds of a loop, and checks for an interrupt every few thousand.
class Ticker {
 public:
  void operator()(int64_t rounds = 1) {
    if ((left_ -= rounds) > 0) return;
    left_ = kRounds;
    check_interrupt();
  }

 private:
  static constexpr int64_t kRounds = 1 << 14;
  int64_t left_ = kRounds;
};

// std::sort that listens.
template <class Iterator, class Less>
void sort_listening(Iterator begin, Iterator end, Less less) {
  Ticker tick;
  std::sort(begin, end, [&](const auto& a, const auto& b) {
    tick();
    return less(a, b);
  });
}

}  // namespace pynas
