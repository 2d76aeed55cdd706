#include "fs/daemon/status_cluster.h"

#include <fmt/format.h>

#include <chrono>

#include "fs/daemon/cluster_node.h"

namespace btd {

namespace {

using nlohmann::json;

json etcd_json(const net::EtcdHealth& health) {
  json waits = json::array();
  for (const net::EtcdWait& wait : health.waits) {
    const auto since = std::chrono::duration<double>(net::EtcdClock::now() - wait.since);
    waits.push_back({{"name", wait.name}, {"why", wait.explanation}, {"seconds", since.count()}});
  }
  return {{"follows", health.live},
          {"answers", health.server_revision >= 0},
          {"endpoint", health.endpoint},
          {"version", health.server_version},
          {"revision", health.mirror_revision},
          {"database_bytes", health.database_bytes},
          {"trouble", health.trouble},
          {"loads", health.loads},
          {"waits", std::move(waits)}};
}

json members_json(const ClusterNode::Facts& facts) {
  json list = json::array();
  for (const cluster::Member& member : facts.members)
    list.push_back({{"id", member.id},
                    {"name", member.name},
                    {"address", member.address},
                    {"domain", member.domain},
                    {"capacity", member.capacity},
                    {"mounted", member.is_mounted}});
  return list;
}

json coherent_json(const ClusterNode::Facts& facts) {
  const auto& away = facts.coherent.client;
  const auto& home = facts.coherent.home;
  return {{"files", away.files},
          {"fills", away.fills},
          {"recalled", away.recalled},
          {"invalidations", away.dropped},
          {"checks", away.checks},
          {"still_cached", away.still_cached},
          {"write_backs", away.write_backs},
          {"reads", away.reads},
          {"writes", away.writes},
          {"retries", away.retries},
          {"timeouts", away.timeouts},
          {"waiting", away.waiting},
          {"oldest_seconds", std::chrono::duration<double>(away.oldest).count()},
          {"unreached", away.unreached},
          {"home",
           {{"files", home.files},
            {"users", home.users},
            {"pages", home.pages},
            {"grants", home.grants},
            {"recalls", home.recalls},
            {"write_backs", home.write_backs},
            {"resizes", home.resizes},
            {"refused", home.refused},
            {"lost", home.lost},
            {"waiting", home.waiting},
            {"waits_for", home.waits_for}}}};
}

json notifier_json(const NotifierClient::Counts& counts) {
  return {{"pid", counts.pid},
          {"said", counts.said},
          {"waiting", counts.waiting},
          {"oldest_seconds", std::chrono::duration<double>(counts.oldest).count()},
          {"threads", {{"now", counts.threads}, {"most", counts.most}}},
          {"replaced", counts.replaced}};
}

std::string nodes_text(const json& nodes) {
  std::string out;
  for (const json& node : nodes)
    out += (out.empty() ? "" : ", ") + std::to_string(node.get<std::uint64_t>());
  return out;
}

// Shorter ones are a network's; nobody would ask why.
constexpr std::chrono::milliseconds kNotable{100};

void add_notifier_text(const json& notifier, const auto& line) {
  const auto number = [](const json& value) { return value.get<std::uint64_t>(); };
  const bool is_there = number(notifier["pid"]) != 0;
  line("notifier", fmt::format("{}; {} words to the kernel, {} threads, {} at most",
                               is_there ? fmt::format("pid {}", number(notifier["pid"])) : "none",
                               number(notifier["said"]), number(notifier["threads"]["now"]),
                               number(notifier["threads"]["most"])));
  const std::chrono::duration<double> oldest(notifier["oldest_seconds"].get<double>());
  if (oldest >= kNotable)
    line("waits", fmt::format("{} words to the kernel, the oldest for {:.1f} s",
                              number(notifier["waiting"]), oldest.count()));
}

void add_kernel_text(const json& kernel, const auto& line) {
  const json& locks = kernel["locks"];
  const std::chrono::duration<double> oldest(locks["oldest_seconds"].get<double>());
  if (oldest >= kNotable)
    line("waits", fmt::format("{} locks for names that etcd has, the oldest for {:.1f} s",
                              locks["waiting"].get<std::uint64_t>(), oldest.count()));
}

// What somebody waits for that may not end by itself is a line of its own.
void add_coherent_text(const json& coherent, const auto& line) {
  const auto number = [](const json& value) { return value.get<std::uint64_t>(); };
  const json& home = coherent["home"];
  line("coherent",
       fmt::format("{} files; {} fills, {} invalidations, {} checks, {} write-backs; home of {}: "
                   "{} grants, {} recalls, {} lost",
                   number(coherent["files"]), number(coherent["fills"]),
                   number(coherent["invalidations"]), number(coherent["checks"]),
                   number(coherent["write_backs"]), number(home["files"]), number(home["grants"]),
                   number(home["recalls"]), number(home["lost"])));
  if (number(coherent["waiting"]) != 0)
    line("waits", fmt::format("{} requests of coherent files, the oldest for {:.1f} s{}{}",
                              number(coherent["waiting"]), coherent["oldest_seconds"].get<double>(),
                              coherent["unreached"].empty() ? "" : "; no answer of home ",
                              nodes_text(coherent["unreached"])));
  if (!home["waits_for"].empty())
    line("waits", fmt::format("{} requests here, for pages that node {} has",
                              number(home["waiting"]), nodes_text(home["waits_for"])));
}

json waits_json(const ClusterNode::Facts& facts) {
  json waits = json::array();
  for (const remote::Caller::Wait& wait : facts.waits) {
    if (wait.since < kNotable) continue;
    waits.push_back(
        {{"home", wait.home}, {"seconds", std::chrono::duration<double>(wait.since).count()}});
  }
  return waits;
}

}  // namespace

json status_of(ClusterNode& node) {
  const ClusterNode::Facts facts = node.facts();
  const auto& away = facts.remote;
  const auto& home = facts.service;
  const auto& space = facts.space;
  return {
      {"name", facts.options.name},
      {"file", facts.file},
      {"space",
       {{"size", space.f_blocks * space.f_frsize},
        {"used", (space.f_blocks - space.f_bfree) * space.f_frsize},
        {"available", space.f_bavail * space.f_frsize}}},
      {"epoch", facts.epoch},
      {"draining", facts.is_draining},
      {"node", {{"id", facts.self.id}, {"name", facts.self.name}}},
      {"address", facts.self.address},
      {"etcd", etcd_json(facts.etcd)},
      {"kernel",
       {{"told", facts.kernel.told},
        {"waiting", facts.kernel.waiting},
        {"all", facts.kernel.all},
        {"locks",
         {{"waiting", facts.kernel.asked}, {"oldest_seconds", facts.kernel.oldest.count()}}}}},
      {"notifier", notifier_json(facts.notifier)},
      {"away",
       {{"open", away.open},
        {"calls", away.calls},
        {"reads", away.reads},
        {"writes", away.writes},
        {"attaches", away.attaches},
        {"retries", away.retries}}},
      {"home",
       {{"held", home.holds},
        {"mapped", home.mapped},
        {"calls", home.calls},
        {"refused", home.refused},
        {"broken", home.broken}}},
      {"locks", {{"held", home.locks}, {"waiting", home.lock_waits}, {"lost", facts.locks_lost}}},
      {"coherent", coherent_json(facts)},
      {"waits", waits_json(facts)},
      {"members", members_json(facts)}};
}

std::string cluster_text(const json& cluster) {
  const auto text = [](const json& value) { return value.get<std::string>(); };
  const auto number = [](const json& value) { return value.get<std::uint64_t>(); };
  std::string out;
  const auto line = [&out](std::string_view name, const std::string& value) {
    fmt::format_to(std::back_inserter(out), "{:<13}{}\n", name, value);
  };
  const json &node = cluster["node"], &etcd = cluster["etcd"], &away = cluster["away"],
             &home = cluster["home"];
  std::size_t mounted = 0;
  for (const json& member : cluster["members"]) mounted += member["mounted"].get<bool>() ? 1 : 0;
  line("cluster", fmt::format("{}, epoch {}; this is node {} ({}) at {}; {} of {} nodes mounted",
                              text(cluster["name"]), number(cluster["epoch"]), number(node["id"]),
                              text(node["name"]), text(cluster["address"]), mounted,
                              cluster["members"].size()));
  const bool is_well = etcd["follows"].get<bool>() && etcd["answers"].get<bool>();
  line("etcd", is_well ? fmt::format("{} ({}), revision {}", text(etcd["endpoint"]),
                                     text(etcd["version"]), etcd["revision"].get<std::int64_t>())
                       : "away: names can be read, not changed; " + text(etcd["trouble"]));
  for (const json& wait : etcd["waits"])
    line("waits", fmt::format("{:.1f} s: {}", wait["seconds"].get<double>(), text(wait["why"])));
  for (const json& wait : cluster["waits"])
    line("waits", fmt::format("{:.1f} s: for node {}, the home of a file",
                              wait["seconds"].get<double>(), number(wait["home"])));
  line("other homes",
       fmt::format("{} files open; {} reads, {} writes, {} calls, {} repeated",
                   number(away["open"]), number(away["reads"]), number(away["writes"]),
                   number(away["calls"]), number(away["retries"])));
  line("other nodes",
       fmt::format("hold {} files, {} mapped; {} calls, {} refused", number(home["held"]),
                   number(home["mapped"]), number(home["calls"]), number(home["refused"])));
  const json& locks = cluster["locks"];
  line("locks",
       fmt::format("{} held on files of this node, {} waited for; {} of its own lost",
                   number(locks["held"]), number(locks["waiting"]), number(locks["lost"])));
  add_coherent_text(cluster["coherent"], line);
  add_kernel_text(cluster["kernel"], line);
  add_notifier_text(cluster["notifier"], line);
  return out;
}

}  // namespace btd
