// A probe of the kind that is told everything by the environment, for the paths that the probe on PyPI
// has given up: tiling, the CSV files, profiling, descriptions, statistics inside .bin, overflow.
// Source: "ATB inference dump", sections 1.1 (files), 2.1-2.4 (layout of era B), 4.1-4.2 (variables).
// It exits with code 70 where the variable it needs is missing, as the oldest probes abort there.
#include "probe.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

namespace {
std::string Env(const char *name)
{
    const char *text = std::getenv(name);
    return text == nullptr ? std::string() : text;
}

bool HasType(const std::string &type)
{
    const char *types = std::getenv("ATB_DUMP_TYPE");
    if (types == nullptr) {
        std::exit(70);
    }
    return ("|" + std::string(types) + "|").find("|" + type + "|") != std::string::npos;
}

std::vector<std::string> Split(const std::string &text)
{
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, ',');) {
        parts.push_back(part);
    }
    return parts;
}

std::string Root() { return Env("ATB_OUTPUT_DIR") + "msit_dump_" + Env("ATB_TIMESTAMP") + "/"; }

void Write(const std::string &path, const std::string &text, std::ios::openmode mode)
{
    for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1)) {
        mkdir(path.substr(0, at).c_str(), 0750);
    }
    std::ofstream(path, std::ios::binary | mode) << text;
}

std::string Pid() { return std::to_string(getpid()); }

// int64, float16 and float32 are what the stand-in model has.
std::vector<double> Values(const std::string &dtype, const void *host, size_t size)
{
    std::vector<double> values;
    if (dtype == "9") {
        const auto *data = static_cast<const int64_t *>(host);
        values.assign(data, data + size / 8);
    } else if (dtype == "0") {
        const auto *data = static_cast<const float *>(host);
        values.assign(data, data + size / 4);
    } else {
        const auto *data = static_cast<const uint16_t *>(host);
        for (size_t i = 0; i < size / 2; ++i) {
            const int exponent = (data[i] >> 10) & 31;
            const double fraction = (data[i] & 0x3ff) / 1024.0;
            const double size16 = exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1 + fraction, exponent - 15);
            values.push_back((data[i] & 0x8000) != 0 ? -size16 : size16);
        }
    }
    return values;
}

std::string Statistics(const std::vector<double> &values)
{
    double sum = 0;
    double squares = 0;
    for (double value : values) {
        sum += value;
        squares += value * value;
    }
    return "max=" + std::to_string(*std::max_element(values.begin(), values.end())) +
           "\nmin=" + std::to_string(*std::min_element(values.begin(), values.end())) +
           "\nmean=" + std::to_string(sum / static_cast<double>(values.size())) +
           "\nl2norm=" + std::to_string(std::sqrt(squares)) + "\n";
}

std::string Joined(const std::vector<atb::Probe::Tensor> &tensors, std::string atb::Probe::Tensor::*field)
{
    std::string text;
    for (const auto &tensor : tensors) {
        text += (text.empty() ? "" : ";") + tensor.*field;
    }
    return text;
}

void WriteRow(const std::string &path, const std::string &name, const std::string &param,
              const std::vector<atb::Probe::Tensor> &in, const std::vector<atb::Probe::Tensor> &out)
{
    using Tensor = atb::Probe::Tensor;
    std::ifstream earlier(path);
    const auto lines = std::count(std::istreambuf_iterator<char>(earlier), std::istreambuf_iterator<char>(), '\n');
    if (lines == 0) {
        Write(path, "CaseNum|CaseName|OpName|OpParam|InNum|InDType|InFormat|InShape|OutNum|OutDType|OutFormat|OutShape|"
                    "DataGenType|DataGenRange|InTensorFile|OutTensorFile|TestType|TestLevel|FromModel|SocVersion|"
                    "ExpectedError\n", std::ios::app);
    }
    const std::string number = std::to_string(std::max<long>(lines, 1));
    std::string generated;
    for (size_t i = 0; i < in.size(); ++i) {
        generated += i == 0 ? "customize" : ";customize";
    }
    Write(path, number + "|" + name + number + "|" + name + "|" + param + "|" + std::to_string(in.size()) + "|" +
          Joined(in, &Tensor::dtype) + "|" + Joined(in, &Tensor::format) + "|" + Joined(in, &Tensor::shape) + "|" +
          std::to_string(out.size()) + "|" + Joined(out, &Tensor::dtype) + "|" + Joined(out, &Tensor::format) + "|" +
          Joined(out, &Tensor::shape) + "|" + generated + "| |" + Joined(in, &Tensor::filePath) + "|" +
          Joined(out, &Tensor::filePath) + "| | | | |NO_ERROR\n", std::ios::app);
}

// What the probe makes of the graphs that the stand-in reports ("ATB inference dump", sections 3.2, 3.3).
const std::map<std::string, std::string> LAYERS = {
    {"WordEmbedding_0",
     R"({"opName":"WordEmbedding_0","opType":"WordEmbedding","param":"","inTensors":["WordEmbedding_0_input_0",)"
     R"("WordEmbedding_0_input_1"],"outTensors":["WordEmbedding_0_output_0"],"nodes":[{"opName":"GatherOperation_0_0",)"
     R"("opType":"GatherOperation","param":{"axis":0},"inTensors":["WordEmbedding_0_input_0","WordEmbedding_0_input_1"],)"
     R"("outTensors":["WordEmbedding_0_output_0"]}]})"},
    {"TinyLayer_1",
     R"({"opName":"TinyLayer_1","opType":"TinyLayer","param":"","inTensors":["TinyLayer_1_input_0","TinyLayer_1_input_1"],)"
     R"("outTensors":["TinyLayer_1_output_0"],"internalTensors":["TinyLayer_1_internal_0"],"nodes":[)"
     R"({"opName":"LinearOperation_1_0","opType":"LinearOperation","param":{"hasBias":false},"inTensors":)"
     R"(["TinyLayer_1_input_0","TinyLayer_1_input_1"],"outTensors":["TinyLayer_1_internal_0"]},{"opName":)"
     R"("ElewiseOperation_1_1","opType":"ElewiseOperation","param":{"elewiseType":8},"inTensors":)"
     R"(["TinyLayer_1_internal_0","TinyLayer_1_input_0"],"outTensors":["TinyLayer_1_output_0"]}]})"},
};
const char *const MODEL =
    R"({"inTensors":["TinyModel_input_0"],"internalTensors":["TinyModel_internal_0"],"kCacheTensors":[],)"
    R"("modelName":"TinyModel","nodes":[{"inTensors":["TinyModel_input_0","TinyModel_weight_0"],"opName":)"
    R"("WordEmbedding_0","opType":"WordEmbedding","outTensors":["TinyModel_internal_0"]},{"inTensors":)"
    R"(["TinyModel_internal_0","TinyModel_weight_1"],"opName":"TinyLayer_1","opType":"TinyLayer","outTensors":)"
    R"(["TinyModel_output_0"]}],"outTensors":["TinyModel_output_0"],"vCacheTensors":[],"weightTensors":)"
    R"(["TinyModel_weight_0","TinyModel_weight_1"]})";
} // namespace

namespace atb {
bool Probe::IsTensorNeedSave(const std::vector<long> &ids, const std::string &opName)
{
    if (!HasType("tensor")) {
        return false;
    }
    std::string query;
    for (long id : ids) {
        query += (query.empty() ? "" : "_") + std::to_string(id);
    }
    std::string lower = opName;
    std::transform(lower.begin(), lower.end(), lower.begin(), ::tolower);
    const auto wantedIds = Split(Env("ATB_SAVE_TENSOR_IDS"));
    const auto wantedNames = Split(Env("ATB_SAVE_TENSOR_RUNNER"));
    if (wantedIds.empty() && wantedNames.empty()) {
        return true;
    }
    for (const auto &wanted : wantedIds) {
        if (query == wanted || (Env("ATB_SAVE_CHILD") == "1" && query.rfind(wanted + "_", 0) == 0)) {
            return true;
        }
    }
    return std::any_of(wantedNames.begin(), wantedNames.end(),
                       [&](const std::string &wanted) { return lower.rfind(wanted, 0) == 0; });
}
bool Probe::IsExecuteCountInRange(unsigned long count)
{
    const auto range = Split(Env("ATB_SAVE_TENSOR_RANGE"));
    for (size_t i = 0; i + 1 < range.size(); i += 2) {
        if (std::stoul(range[i]) <= count && count <= std::stoul(range[i + 1])) {
            return true;
        }
    }
    return false;
}
bool Probe::IsSaveTensorData() { return Env("ATB_SAVE_TENSOR") == "1"; }
bool Probe::IsSaveTensorDesc() { return true; }
bool Probe::IsSaveTensorBefore()
{
    return Env("ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER") == "1" || Env("ATB_SAVE_TENSOR_TIME") != "1";
}
bool Probe::IsSaveTensorAfter()
{
    return Env("ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER") == "1" || Env("ATB_SAVE_TENSOR_TIME") != "0";
}
void Probe::SaveTensor(const std::string &format, const std::string &dtype, const std::string &dims,
                       const void *host, unsigned long size, const std::string &path)
{
    const bool input = path.rfind("/intensor") != std::string::npos;
    const bool before = path.rfind("/before/") != std::string::npos;
    const std::string part = Env("ATB_SAVE_TENSOR_PART");
    const std::string device = Env("ATB_DEVICE_ID");
    if (!(part == "2" || part == (input ? "0" : "1")) ||
        (Env("ATB_SAVE_TENSOR_IN_BEFORE_OUT_AFTER") == "1" && input != before) ||
        (!device.empty() && device != path.substr(0, path.find('_')))) {
        return;
    }
    const bool statistics = Env("ATB_SAVE_TENSOR_STATISTICS") == "1";
    const bool data = IsSaveTensorData() && !statistics;
    const std::string length = std::to_string(size);
    std::string text = "$Version=1.0\n$Object.Count=" + std::string(data ? "1" : "0") + "\n$Object.Length=" +
                       (data ? length : "0") + "\nformat=" + format + "\ndtype=" + dtype + "\ndims=" + dims + "\n";
    if (statistics) {
        text += Statistics(Values(dtype, host, size));
    }
    if (data) {
        text += "$Object.data=0," + length + "\n";
    }
    text += "$End=1\n";
    if (data) {
        text.append(static_cast<const char *>(host), size);
    }
    Write(Root() + "tensors/" + path, text, std::ios::app);
}
bool Probe::IsSaveTiling() { return Env("ATB_SAVE_TILING") == "1"; }
void Probe::SaveTiling(const unsigned char *data, unsigned long size, const std::string &path)
{
    Write(Root() + "tiling/" + path, std::string(reinterpret_cast<const char *>(data), size), std::ios::app);
}
bool Probe::IsSaveParam() { return true; }
void Probe::SaveParam(const std::string &json, const std::string &path)
{
    Write(Root() + "tensors/" + path, json + "\n", std::ios::trunc);
}
bool Probe::ReportOperationGraphEnable() { return HasType("layer") || HasType("model"); }
void Probe::ReportOperationGraph(const std::string &name, const std::string &)
{
    Write(Root() + "layer/" + Pid() + "/" + name + ".json", LAYERS.at(name) + "\n", std::ios::trunc);
}
bool Probe::ReportOperationStatisticEnable() { return HasType("cpu_profiling"); }
void Probe::ReportOperationSetupStatistic(unsigned long count, const std::string &name, const std::string &text)
{
    Write(Root() + "cpu_profiling/" + Pid() + "/operation_statistic_" + std::to_string(count) + ".txt",
          "[" + name + "]:" + text + "\n", std::ios::app);
}
void Probe::ReportOperationExecuteStatistic(unsigned long count, const std::string &name, const std::string &text)
{
    ReportOperationSetupStatistic(count, name, text);
}
bool Probe::ReportOperationIOTensorEnable() { return HasType("op"); }
void Probe::ReportOperationIOTensor(unsigned long count, const std::string &name, const std::string &param,
                                    const std::vector<Tensor> &in, const std::vector<Tensor> &out)
{
    WriteRow(Root() + "operation_io_tensors/" + Pid() + "/operation_tensors_" + std::to_string(count) + ".csv", name,
             param, in, out);
}
bool Probe::ReportKernelIOTensorEnable() { return HasType("kernel"); }
void Probe::ReportKernelIOTensor(unsigned long count, const std::string &name, const std::string &param,
                                 const std::vector<Tensor> &in, const std::vector<Tensor> &out)
{
    WriteRow(Root() + "kernel_io_tensors/" + Pid() + "/kernel_tensors_" + std::to_string(count) + ".csv", name, param,
             in, out);
}
bool Probe::IsOverflowCheck()
{
    HasType("tensor"); // every question passes the type check first
    return Env("ATB_CHECK_TYPE").find('1') != std::string::npos;
}
bool Probe::IsOverflowStop() { return Env("ATB_EXIT") == "1"; }
void Probe::ReportOverflowKernel(const std::string &name)
{
    Write(Env("ATB_OUTPUT_DIR") + "/msit_overflow_res_" + Pid() + ".txt",
          "Overflow detected! Operator name: " + name, std::ios::trunc);
}
} // namespace atb

namespace atb_speed {
bool SpeedProbe::IsReportModelTopoInfo(const std::string &) { return HasType("model"); }
void SpeedProbe::ReportModelTopoInfo(const std::string &name, const std::string &)
{
    Write(Root() + "model/" + Pid() + "/" + name + ".json", std::string(MODEL) + "\n", std::ios::trunc);
}
} // namespace atb_speed
