// How a kernel learns of Ctrl-C from Python (common/interrupt.h).
#pragma once

#include <pybind11/pybind11.h>
#include <signal.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "common/interrupt.h"

namespace pynas {

namespace py = pybind11;

// In Python's main thread: runs the handlers of signals that came, and stops if one of them raised.
class MainThreadQuestion final : public StopQuestion {
 public:
  bool stop() override {
    py::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
  }
};

// While one lives, counts SIGINT before it goes to the handler that was set, which is Python's.
class SigintCount {
 public:
  SigintCount() {
    std::lock_guard<std::mutex> lock(mutex());
    if (users()++ > 0) return;
    sigaction(SIGINT, nullptr, &before());
    struct sigaction counting = before();
    const bool handled = (counting.sa_flags & SA_SIGINFO) != 0 ||
                         (counting.sa_handler != SIG_DFL && counting.sa_handler != SIG_IGN);
    if (!handled) return;
    counting.sa_flags |= SA_SIGINFO;
    counting.sa_sigaction = count;
    sigaction(SIGINT, &counting, nullptr);
  }
  ~SigintCount() {
    std::lock_guard<std::mutex> lock(mutex());
    if (--users() > 0) return;
    struct sigaction now;
    sigaction(SIGINT, nullptr, &now);
    // Python may have set another handler meanwhile.
    if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == count) sigaction(SIGINT, &before(), nullptr);
  }

  static int64_t seen() { return counter().load(); }

 private:
  static void count(int number, siginfo_t* info, void* context) {
    counter().fetch_add(1);
    if ((before().sa_flags & SA_SIGINFO) != 0) before().sa_sigaction(number, info, context);
    else before().sa_handler(number);
  }
  static std::atomic<int64_t>& counter() {
    static std::atomic<int64_t> value{0};
    return value;
  }
  static struct sigaction& before() {
    static struct sigaction action;
    return action;
  }
  static int& users() {
    static int count = 0;
    return count;
  }
  static std::mutex& mutex() {
    static std::mutex value;
    return value;
  }
};

inline bool interpreter_ends() {
#if PY_VERSION_HEX >= 0x030d0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// In another thread, where Python runs no handlers: stops with KeyboardInterrupt at a SIGINT, where Python's own handler
// raises that in the main thread. A handler of the user's decides by itself. The first question after the signal waits: a
// process that ends of it would kill a thread that asks for the interpreter's lock.
class OtherThreadQuestion final : public StopQuestion {
 public:
  bool stop() override {
    const int64_t seen = SigintCount::seen();
    if (seen == seen_ || interpreter_ends()) return false;
    if (!waited_) return waited_ = true, false;
    waited_ = false;
    seen_ = seen;
    py::gil_scoped_acquire gil;
    const py::module_ signals = py::module_::import("signal");
    if (!signals.attr("getsignal")(SIGINT).is(signals.attr("default_int_handler"))) return false;
    PyErr_SetNone(PyExc_KeyboardInterrupt);
    return true;
  }

 private:
  SigintCount count_;
  int64_t seen_ = SigintCount::seen();
  bool waited_ = false;
};

inline unsigned long& main_thread() {
  static unsigned long identity = 0;
  return identity;
}

// Lets the kernels listen. An interrupted call ends with the exception that the question has set in its thread.
inline void listen_to_python() {
  main_thread() = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  set_stop_question([]() -> std::unique_ptr<StopQuestion> {
    if (PyThread_get_thread_ident() == main_thread()) return std::make_unique<MainThreadQuestion>();
    return std::make_unique<OtherThreadQuestion>();
  });
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const Interrupted&) {
      // Python's error is set already.
    }
  });
}

}  // namespace pynas
