#include "tests/net/server_nvram.h"

#include <utility>

#include "alloc/emulator.h"

namespace btd::net {

namespace {

class LocalNvram final : public ServerNvram {
 public:
  LocalNvram(std::unique_ptr<EmulatedNvram> now, std::unique_ptr<EmulatedNvram> after)
      : now_(std::move(now)), after_(std::move(after)) {}
  Status lend(Engine& engine) {
    BTD_ASSIGN(region_, engine.register_region({now_->base(), now_->arena_bytes()},
                                               kRemoteWrite | kRemoteCas, &now_->persist()));
    return {};
  }
  [[nodiscard]] const RegionDescriptor& region() const override { return region_; }
  Result<std::vector<std::byte>> after_crash(std::uint64_t seed) override {
    now_->crash_into(*after_, seed);
    return std::vector<std::byte>(after_->base(), after_->base() + after_->arena_bytes());
  }

 private:
  std::unique_ptr<EmulatedNvram> now_, after_;
  RegionDescriptor region_;
};

}  // namespace

Result<std::unique_ptr<ServerNvram>> make_nvram(Engine& engine, std::size_t bytes) {
  BTD_ASSIGN(auto now, EmulatedNvram::create(bytes, 1));
  BTD_ASSIGN(auto after, EmulatedNvram::create(bytes, 1));
  auto made = std::make_unique<LocalNvram>(std::move(now), std::move(after));
  BTD_TRY(made->lend(engine));
  return made;
}

}  // namespace btd::net
