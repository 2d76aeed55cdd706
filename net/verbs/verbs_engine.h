// The verbs engine: endpoints over RDMA (InfiniBand, RoCE), by librdmacm and libibverbs.
//
// Reads and writes are done by the NICs; swaps and messages travel as frames (net/connection.h) in
// small SENDs, since only a processor does them once. What the NIC can't do (memory that it can't
// lock, a refusal that needs its reason) goes as a frame too. net/verbs/README.md has the rules.
#pragma once

#include <memory>
#include <string>

#include "net/engine.h"

namespace btd::net {

struct VerbsOptions {
  EngineOptions engine;
  // The device's name, as ibv_devices prints it; empty: the first one.
  std::string device;
  // Who does not prove that it has it is refused. Empty: whoever is on the fabric may connect.
  std::string cluster_key;
  // This node's platform makes durable what the NIC placed, once a read behind it is answered: the
  // NIC does not write into processor caches (DDIO is off), or caches are in the power-fail domain
  // (eADR). Then writes take no processor here; a region that may be written may be read, too.
  bool direct_write_is_durable = false;
  // The NICs' own flush makes writes durable where library, device and memory have it. False: not
  // even then.
  bool native_flush = true;
};

// Errors: ENODEV no RDMA device; ENOMEM what it may lock is too little (RLIMIT_MEMLOCK); others as
// the device says.
Result<std::unique_ptr<Engine>> make_verbs_engine(const VerbsOptions& options);

}  // namespace btd::net
