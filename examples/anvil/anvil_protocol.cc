#include "examples/anvil/anvil_protocol.h"

#include "absl/strings/str_cat.h"
#include "examples/lib/plain_attributes.h"

namespace examples {
namespace {

int RateOf(const AnvilCounts& counts, Rate rate) { return counts.rate[static_cast<size_t>(rate)]; }

// The two attributes that a request begins with, in the one order that is accepted (D31).
bool ReadRequest(absl::string_view list, absl::string_view* request, absl::string_view* ident,
                 std::string* error) {
  AttributeReader reader(list);
  Attribute attribute;
  const auto expect = [&](absl::string_view name, absl::string_view* value) {
    if (!reader.Next(&attribute)) {
      *error = reader.malformed() ? std::string(reader.error())
                                  : absl::StrCat("attribute \"", name, "\" is missing");
      return false;
    }
    if (attribute.name != name) {
      *error = absl::StrCat("attribute \"", attribute.name.substr(0, 100), "\" instead of \"", name,
                            "\"");
      return false;
    }
    *value = attribute.value;
    return true;
  };
  // What follows is not looked at: the stock program ignores it, so newer clients may send more.
  return expect("request", request) && expect("ident", ident);
}

void WriteConnect(const AnvilCounts& counts, std::string* reply) {
  absl::StrAppend(reply, "status=0\ncount=", counts.connections,
                  "\nrate=", RateOf(counts, Rate::kConnection), "\n\n");
}

void WriteLookup(const AnvilCounts& counts, std::string* reply) {
  absl::StrAppend(reply, "status=0\ncount=", counts.connections,
                  "\nrate=", RateOf(counts, Rate::kConnection),
                  "\nmail=", RateOf(counts, Rate::kMessage));
  absl::StrAppend(reply, "\nrcpt=", RateOf(counts, Rate::kRecipient),
                  "\nnewtls=", RateOf(counts, Rate::kNewTls),
                  "\nauth=", RateOf(counts, Rate::kAuth), "\n\n");
}

void WriteRate(int rate, std::string* reply) {
  absl::StrAppend(reply, "status=0\nrate=", rate, "\n\n");
}

// The requests that add one to a rate.
struct CountingRequest {
  absl::string_view name;
  Rate rate;
};
constexpr CountingRequest kCountingRequests[] = {
    {"message", Rate::kMessage}, {"recipient", Rate::kRecipient},  {"newtls", Rate::kNewTls},
    {"auth", Rate::kAuth},       {"tlstr", Rate::kTlsTransaction},  // since Postfix 3.9; older
                                                                    // clients never ask
};

}  // namespace

AnvilAnswer AnswerAnvilRequest(absl::string_view list, AnvilTable& table,
                               AnvilTable::Holder& holder, int64_t now_ns, std::string* text) {
  text->clear();
  absl::string_view request;
  absl::string_view ident;
  if (!ReadRequest(list, &request, &ident, text)) return AnvilAnswer::kWrongList;
  if (request == "connect") {
    WriteConnect(table.Connect(holder, ident, now_ns), text);
    return AnvilAnswer::kReply;
  }
  if (request == "disconnect") {
    table.Disconnect(holder, ident, now_ns);
    *text = "status=0\n\n";
    return AnvilAnswer::kReply;
  }
  for (const CountingRequest& counting : kCountingRequests) {
    if (request == counting.name) {
      WriteRate(table.Count(counting.rate, holder, ident, now_ns), text);
      return AnvilAnswer::kReply;
    }
  }
  if (request == "newtls_status") {
    WriteRate(RateOf(table.Lookup(ident, now_ns), Rate::kNewTls), text);
    return AnvilAnswer::kReply;
  }
  if (request == "lookup") {
    WriteLookup(table.Lookup(ident, now_ns), text);
    return AnvilAnswer::kReply;
  }
  *text = "status=4294967295\n\n";  // -1 as the encoding carries it (D1)
  return AnvilAnswer::kUnknownRequest;
}

}  // namespace examples
