// The anvil protocol over an AnvilTable: one request list in, one reply list out (D31, D32).

#ifndef EXAMPLES_ANVIL_ANVIL_PROTOCOL_H_
#define EXAMPLES_ANVIL_ANVIL_PROTOCOL_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "examples/anvil/anvil_table.h"

namespace examples {

// Sent to every client before anything is read (D11, D12).
inline constexpr absl::string_view kAnvilGreeting = "protocol=anvil_protocol\n\n";

enum class AnvilAnswer {
  kReply,           // `*reply` is to be sent
  kUnknownRequest,  // the same; the name of the request means nothing to us
  kWrongList,       // does not begin with the two attributes: the client is disconnected
};

// Answers one complete list of `holder`'s connection. `*text` becomes the reply, or for a wrong
// list what is wrong with it.
AnvilAnswer AnswerAnvilRequest(absl::string_view list, AnvilTable& table,
                               AnvilTable::Holder& holder, int64_t now_ns, std::string* text);

}  // namespace examples

#endif  // EXAMPLES_ANVIL_ANVIL_PROTOCOL_H_
