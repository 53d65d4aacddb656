#include "common/interrupt.h"

namespace pynas {
namespace {

constexpr std::chrono::milliseconds kBetweenQuestions{100};
std::unique_ptr<StopQuestion> (*make_question)() = nullptr;

}  // namespace

void set_stop_question(std::unique_ptr<StopQuestion> (*make)()) { make_question = make; }

Listening*& listening() {
  thread_local Listening* call = nullptr;
  return call;
}

Listening::Listening()
    : question_(make_question == nullptr ? nullptr : make_question()),
      next_(std::chrono::steady_clock::now() + kBetweenQuestions), before_(listening()) {
  listening() = this;
}

Listening::~Listening() { listening() = before_; }

void Listening::ask() {
  if (question_ == nullptr || std::this_thread::get_id() != caller_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_ || stopped_.load(std::memory_order_relaxed)) return;
  if (question_->stop()) stopped_.store(true, std::memory_order_relaxed);
  next_ = std::chrono::steady_clock::now() + kBetweenQuestions;
}

}  // namespace pynas
