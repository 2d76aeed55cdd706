// The C calls for named roots.
#include <cstring>

#include "libbtd/cluster.h"

using btd::guarded;
using btd::recovered;

namespace {

// False and the error set where it is no name.
bool name_ok(const char* name) {
  const std::size_t len = name == nullptr ? 0 : strnlen(name, btd::Names::kMaxRootName + 1);
  if (len >= 1 && len <= btd::Names::kMaxRootName) return true;
  btd::set_error(EINVAL, "A root's name has 1 to 255 bytes.");
  return false;
}

}  // namespace

extern "C" {

int btd_set_root(struct btd_cluster* cluster, const char* name, const void* pointer) {
  if (!recovered(cluster) || !name_ok(name)) return -1;
  if (pointer != nullptr && btd::cluster_holding(pointer, 1) != cluster) {
    return btd::failed(EINVAL, "The root's pointer is not into this heap.");
  }
  return guarded(-1, [&] {
    return btd::to_int(cluster->names->set_root(name, reinterpret_cast<std::uintptr_t>(pointer)));
  });
}

void* btd_root(struct btd_cluster* cluster, const char* name) {
  if (!recovered(cluster) || !name_ok(name)) return nullptr;
  return guarded(static_cast<void*>(nullptr), [&]() -> void* {
    const auto value = cluster->names->root(name);
    if (!value) return btd::no_block(value.error());
    if (!*value) return btd::no_block(ENOENT, std::string("There is no root ") + name + ".");
    return reinterpret_cast<void*>(**value);
  });
}

int btd_roots(struct btd_cluster* cluster,
              int (*visit)(const char* name, void* pointer, void* context), void* context) {
  if (!recovered(cluster)) return -1;
  return guarded(-1, [&] {
    const auto roots = cluster->names->roots();
    if (!roots) return btd::failed(roots.error());
    // No lock is held: the visitor may set roots.
    for (const auto& [name, value] : *roots) {
      const btd::annotate::Loud loud;
      const int answer = visit(name.c_str(), reinterpret_cast<void*>(value), context);
      if (answer != 0) return answer;
    }
    return 0;
  });
}

}  // extern "C"
