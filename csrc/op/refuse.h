// How the ops refuse a call: by an exception that says what was expected and what came.
#pragma once

#include <cstdint>
#include <ostream>
#include <sstream>
#include <stdexcept>

namespace tip {

// An argument of an op, or an element of one that is a list, for messages.
struct Name {
  const char* argument;
  int64_t index = -1;
};

inline std::ostream& operator<<(std::ostream& out, const Name& name) {
  out << name.argument;
  return name.index < 0 ? out : out << '[' << name.index << ']';
}

template <class... Parts>
[[noreturn]] __attribute__((noinline, cold)) void refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

}  // namespace tip
