// Containers of the standard library in NVRAM: a count of words that goes on from run to run.
//
//   containers DIRECTORY [WORD...]     counts the words, prints all that were ever counted
//
// A container is memory of contract R: it is changed by plain stores, so a crash may leave it in
// the middle of a change. This program therefore changes a copy and then, in one durable store,
// lets `current` point to that: each run counts wholly or not at all. What a crash leaves
// unreachable, the old version or the new, is reclaimed when the heap is opened.
#include <bartender.hpp>
#include <cstdio>
#include <exception>
#include <map>
#include <scoped_allocator>
#include <string>

namespace {

using Word = std::basic_string<char, std::char_traits<char>, btd::allocator<char>>;
// The scoped adaptor hands the heap on to the strings inside.
using Counts = std::map<Word, int, std::less<>,
                        std::scoped_allocator_adaptor<btd::allocator<std::pair<const Word, int>>>>;

struct Book {
  btd::ptr<Counts> current;
};

void count(btd_cluster* heap, Book& book, int words, char** word) {
  const btd::allocator<char> memory(heap);
  Counts* const next = book.current ? btd::make_recoverable<Counts>(heap, *book.current, memory)
                                    : btd::make_recoverable<Counts>(heap, memory);
  for (int i = 0; i < words; ++i) ++(*next)[Word(word[i], memory)];
  btd::sync(heap);  // for media that outlive the power
  Counts* const old = book.current;
  book.current = next;  // the one durable step
  btd::destroy_recoverable(old);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: containers DIRECTORY [WORD...]\n");
    return 2;
  }
  try {
    btd::cluster heap(argv[1], "words");
    Book& book = *btd::root_or_make<Book>(heap, "book");
    if (argc > 2) count(heap, book, argc - 2, argv + 2);
    if (book.current) {
      for (const auto& [word, times] : *book.current) std::printf("%s %d\n", word.c_str(), times);
    }
    heap.close();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "containers: %s\n", error.what());
    return 1;
  }
}
