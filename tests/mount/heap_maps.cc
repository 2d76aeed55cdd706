// Opens the default heap, counts this run in it, and prints the count and the files from which the
// heap's addresses are mapped.
#include <bartender.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>

namespace {

constexpr std::uint64_t kWindowBytes = std::uint64_t{1} << 40;

int fail() {
  std::fprintf(stderr, "heap_maps: %s\n", btd_strerror());
  return 1;
}

void print_maps(std::uint64_t base) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    const std::uint64_t start = std::stoull(line, nullptr, 16);
    const std::size_t path = line.find('/');
    if (start >= base && start < base + kWindowBytes && path != std::string::npos)
      std::cout << line.substr(path) << '\n';
  }
}

}  // namespace

int main() {
  btd_config config{};
  config.single_node = 1;
  btd_cluster* cluster = btd_cluster_create(&config);
  if (cluster == nullptr) return fail();
  auto* count = static_cast<std::uint64_t*>(btd_root(cluster, "count"));
  if (count == nullptr) {
    count = static_cast<std::uint64_t*>(btd_calloc(cluster, 1, sizeof *count));
    if (count == nullptr || btd_persist(count, sizeof *count) != 0 ||
        btd_set_root(cluster, "count", count) != 0)
      return fail();
  }
  ++*count;
  if (btd_persist(count, sizeof *count) != 0) return fail();
  std::cout << *count << '\n';
  print_maps(reinterpret_cast<std::uint64_t>(btd_cluster_base(cluster)));
  return btd_cluster_destroy(cluster) == 0 ? 0 : fail();
}
