// echo sends every line back: the smallest service.
//
//   echo --listen inet:127.0.0.1:7777
//
// or in Postfix's master.cf:
//
//   echo unix - - n - - echo

#include <string>

#include "posthouse/server/multi_server.h"

int main(int argc, char** argv) {
  posthouse::MultiServerOptions options;
  options.description = "sends every line back";
  options.version = "1.0";
  options.serve = [](posthouse::Client& client, posthouse::ServiceContext& context) {
    std::string line;
    if (client.TakeLine(&line)) {
      client.Write(line + "\n");
    } else if (client.at_end()) {
      client.Write(client.input());  // a last line without an end
    }
  };
  return posthouse::MultiServerMain(argc, argv, std::move(options));
}
