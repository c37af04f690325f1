// posthouse-master: see docs/operations.md and `posthouse-master --help`.

#include <string>
#include <vector>

#include "posthouse/master/master.h"

int main(int argc, char** argv) {
  posthouse::Master master;
  return master.Run(std::vector<std::string>(argv, argv + argc));
}
