// What a program and the daemon say to each other when the program wants the backing file of a file
// that it has open on a mount: an ioctl on the open file gives a ticket, a message with the ticket
// to the mount's socket (user.btd.socket, SOCK_SEQPACKET) is answered with a descriptor.
//
// No descriptor goes to the daemon: to close one of a file system that does not answer would hold
// the daemon, even one that was killed. The ticket says the same: only who has the file open gets
// one, and the kernel tells the daemon which open it was.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

namespace btd::backing {

// Random; good once, for a few seconds, and with the worker that gave it.
struct Ticket {
  std::uint64_t words[2] = {};
  bool operator==(const Ticket&) const = default;
};
static_assert(sizeof(Ticket) == 16);

inline constexpr unsigned long kTakeTicket = _IOR('b', 0x71, Ticket);

inline constexpr std::uint32_t kMagic = 0x42647462;  // "btdB"
inline constexpr std::uint32_t kVersion = 1;

struct Ask {
  std::uint32_t magic = kMagic;
  std::uint32_t version = kVersion;
  Ticket ticket;
};
static_assert(sizeof(Ask) == 24);

// With it comes the descriptor, if error is 0; else an errno and a sentence.
struct Answer {
  std::uint32_t magic = kMagic;
  std::uint32_t version = kVersion;
  std::int32_t error = 0;
  std::uint32_t length = 0;  // of text
  char text[112] = {};
};
static_assert(sizeof(Answer) == 128);

}  // namespace btd::backing
