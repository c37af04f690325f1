// A service of an outside user: it greets whoever tells a name. Built with the public targets
// alone.

#include <string>

#include "posthouse/config/parameter.h"
#include "posthouse/server/multi_server.h"

int main(int argc, char** argv) {
  posthouse::StringParameter greeting{"greeter_greeting", "Hello"};
  return posthouse::MultiServerMain(
      argc, argv,
      {
          .serve =
              [&greeting](posthouse::Client& client, posthouse::ServiceContext&) {
                std::string name;
                if (client.TakeLine(&name)) {
                  client.Write(greeting.value() + ", " + name + "!\n");
                }
              },
          .parameters = {&greeting},
          .description = "greets whoever tells a name",
          .version = "1.0",
      });
}
