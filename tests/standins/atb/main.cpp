// A model that runs without Python: `model [steps]`.
#include <cstdlib>

extern "C" int standin_run(int steps, int device, int poison);

int main(int argc, char **argv)
{
    return standin_run(argc > 1 ? std::atoi(argv[1]) : 2, 0, 0) == 0 ? 0 : 3;
}
