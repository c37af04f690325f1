// The worker of the load tests: answers each line with its process number and the line.

#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "posthouse/server/multi_server.h"

int main(int argc, char** argv) {
  posthouse::MultiServerOptions options;
  options.serve = [](posthouse::Client& client, posthouse::ServiceContext&) {
    std::string line;
    if (client.TakeLine(&line)) client.Write(absl::StrCat(getpid(), " ", line, "\n"));
  };
  return posthouse::MultiServerMain(argc, argv, std::move(options));
}
