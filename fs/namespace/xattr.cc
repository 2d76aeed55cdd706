// Extended attributes: one row each, next to each other, so that a list is a scan.
#include <linux/limits.h>
#include <sys/xattr.h>

#include "fs/namespace/layout.h"
#include "fs/namespace/namespace.h"
#include "fs/namespace/retries.h"

namespace btd {

namespace {

Status check_name(std::string_view name) {
  if (name.empty()) return fail(EINVAL);
  if (name.size() > XATTR_NAME_MAX) return fail(ERANGE);
  return {};
}

}  // namespace

Result<std::string> Namespace::get_xattr(InodeId id, std::string_view name) const {
  BTD_TRY(check_name(name));
  BTD_ASSIGN(auto value, store_.get(rows::xattr_key(id, name)));
  if (!value) return fail(ENODATA);
  return *std::move(value);
}

Result<std::vector<std::string>> Namespace::list_xattrs(InodeId id) const {
  std::vector<std::string> names;
  BTD_TRY(store_.scan(rows::xattr_key(id), rows::xattr_key(id + 1),
                      [&names](std::string_view key, std::string_view) {
                        names.emplace_back(key.substr(9));
                        return true;
                      }));
  return names;
}

Status Namespace::set_xattr(InodeId id, std::string_view name, std::string_view value, int flags,
                            const RequestTag& tag) {
  BTD_TRY(check_name(name));
  if (value.size() > XATTR_SIZE_MAX) return fail(E2BIG);
  const auto lock = stripes_.of(id);
  return with_retries([&] { return put_xattr(id, name, value, flags, tag); });
}

Status Namespace::put_xattr(InodeId id, std::string_view name, std::string_view value, int flags,
                            const RequestTag& tag) {
  BTD_ASSIGN(auto loaded, load(id));
  const auto key = rows::xattr_key(id, name);
  BTD_ASSIGN(const auto old, store_.get(key));
  if (old && (flags & XATTR_CREATE)) return fail(EEXIST);
  if (!old && (flags & XATTR_REPLACE)) return fail(ENODATA);
  if (!old) {
    // listxattr(2) returns all names at once and the kernel takes no longer list than this.
    BTD_ASSIGN(const auto names, list_xattrs(id));
    std::size_t bytes = name.size() + 1;
    for (const auto& n : names) bytes += n.size() + 1;
    if (bytes > XATTR_LIST_MAX) return fail(ENOSPC);
  }
  loaded.inode.ctime = Timestamp::now();
  Batch batch;
  batch.require(rows::inode_key(id), loaded.row);
  batch.put(rows::inode_key(id), rows::bytes_of(rows::to_row(loaded.inode)));
  batch.put(key, value);
  return commit(batch, tag, {.id = id});
}

Status Namespace::remove_xattr(InodeId id, std::string_view name, const RequestTag& tag) {
  BTD_TRY(check_name(name));
  const auto lock = stripes_.of(id);
  return with_retries([&] { return erase_xattr(id, name, tag); });
}

Status Namespace::erase_xattr(InodeId id, std::string_view name, const RequestTag& tag) {
  BTD_ASSIGN(auto loaded, load(id));
  const auto key = rows::xattr_key(id, name);
  BTD_ASSIGN(const auto old, store_.get(key));
  if (!old) return fail(ENODATA);
  loaded.inode.ctime = Timestamp::now();
  Batch batch;
  batch.require(rows::inode_key(id), loaded.row);
  batch.put(rows::inode_key(id), rows::bytes_of(rows::to_row(loaded.inode)));
  batch.erase(key);
  return commit(batch, tag, {.id = id});
}

}  // namespace btd
