#include "libbtd/call_site.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdint>

#include "libbtd/text.h"

namespace btd {

std::string describe_call(const void* return_address) {
  Dl_info info{};
  link_map* map = nullptr;
  // One less, so that it is inside the call and not behind it.
  const std::uintptr_t inside = reinterpret_cast<std::uintptr_t>(return_address) - 1;
  if (return_address == nullptr ||
      dladdr1(reinterpret_cast<const void*>(inside), &info, reinterpret_cast<void**>(&map),
              RTLD_DL_LINKMAP) == 0 ||
      map == nullptr)
    return "an unknown place";
  const char* const path = info.dli_fname != nullptr ? info.dli_fname : "?";
  const std::string place = std::string(path) + "+" + hex(inside - map->l_addr);
  if (info.dli_sname == nullptr) return place;
  return std::string(info.dli_sname) + "+" +
         hex(inside - reinterpret_cast<std::uintptr_t>(info.dli_saddr)) + " (" + place + ")";
}

}  // namespace btd
