// A two-layer model that calls the probe in the order ATB does ("ATB inference dump", section 4.5).
//
//   0 WordEmbedding: 0 GatherOperation      ids int64 [n], table float16 [8,4]  -> x float16 [n,4]
//   1 TinyLayer:     0 LinearOperation      x, weight float16 [4,4]             -> y float16 [n,4]
//                    1 ElewiseOperation     y, x                                -> z float32 [n,4]
//
// table[i][j] = (4i+j)/8, weight[r][c] = ((3r+5c) mod 7 - 3)/4, y = x·weightᵀ, z = y + x: exact in float16.
// Step 0 feeds the ids 1 2 3, step t feeds (t+3) mod 8. With `poison` the first weight is +Inf.
#include "probe.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

using Bytes = std::vector<unsigned char>;

namespace {
struct Array {
    std::string dtype; // aclDataType in decimal
    std::string dtypeName;
    std::vector<long> dims;
    Bytes bytes;

    std::string Dims() const
    {
        std::string text;
        for (long dim : dims) {
            text += (text.empty() ? "" : ",") + std::to_string(dim);
        }
        return text;
    }
};

// Exact for the dyadic values used here and for infinity.
uint16_t ToHalf(float value)
{
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = (bits >> 16) & 0x8000;
    if (std::isinf(value)) {
        return sign | 0x7c00;
    }
    if (value == 0.0f) {
        return sign;
    }
    const int exponent = static_cast<int>((bits >> 23) & 0xff) - 127 + 15;
    return sign | static_cast<uint16_t>(exponent << 10) | ((bits >> 13) & 0x3ff);
}

template <typename T> Bytes Raw(const std::vector<T> &values)
{
    Bytes bytes(values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

Array Halves(const std::vector<float> &values, std::vector<long> dims)
{
    std::vector<uint16_t> halves;
    for (float value : values) {
        halves.push_back(ToHalf(value));
    }
    return {"1", "float16", std::move(dims), Raw(halves)};
}

struct Operation {
    std::string name;
    std::string param;  // compact JSON, empty for a graph operation
    std::string kernel; // empty for a graph operation
    std::vector<Array> in;
    std::vector<Array> out;
    std::vector<Operation> children;
};

class Run {
public:
    Run(int device, unsigned long count) : root(std::to_string(device) + "_" + std::to_string(getpid())), count(count) {}

    // False when the probe asked to stop at an overflow.
    bool Execute(const Operation &op, std::vector<long> ids, const std::string &parent)
    {
        const bool top = ids.size() == 1;
#ifndef STANDIN_OLD_ATB
        if (top) {
            atb::Probe::UpdateConfig();
        }
#endif
        const std::string dir = !atb::Probe::IsSaveTensorDesc()
            ? std::string()
            : (top ? root + "/" + std::to_string(count) : parent) + "/" + std::to_string(ids.back()) + "_" + op.name;
        const std::string joined = Name(op.name, ids);
        const bool wanted = atb::Probe::IsTensorNeedSave(ids, op.name);
        if (atb::Probe::ReportOperationStatisticEnable()) {
            atb::Probe::ReportOperationSetupStatistic(count, joined, "totalTime:11, runnerSetupTime:7, runnerCreateTime:2");
        }
        Save(op, dir, wanted, true);
        bool clean = true;
        for (size_t i = 0; i < op.children.size() && clean; ++i) {
            auto child = ids;
            child.push_back(static_cast<long>(i));
            clean = Execute(op.children[i], child, dir);
        }
        if (clean && !op.kernel.empty()) {
            clean = Kernel(op, dir, ids, joined);
        }
        Save(op, dir, wanted, false);
        if (!op.param.empty() && Ready(dir, wanted) && atb::Probe::IsSaveParam()) {
            atb::Probe::SaveParam(op.param, dir + "/op_param.json");
        }
        if (atb::Probe::ReportOperationStatisticEnable()) {
            atb::Probe::ReportOperationExecuteStatistic(count, joined, "totalTime:23, kernelExecuteTime:5, launchTime:3");
        }
        if (atb::Probe::ReportOperationIOTensorEnable()) {
            atb::Probe::ReportOperationIOTensor(count, joined, op.param.empty() ? "{}" : op.param,
                                                Described(op.in, dir, "intensor"), Described(op.out, dir, "outtensor"));
        }
        return clean;
    }

private:
    static std::string Name(const std::string &name, const std::vector<long> &ids)
    {
        std::string text = name;
        for (long id : ids) {
            text += "_" + std::to_string(id);
        }
        return text;
    }

    bool Ready(const std::string &dir, bool wanted) const
    {
        if (dir.empty() || !wanted || !atb::Probe::IsExecuteCountInRange(count)) {
            return false;
        }
#ifdef STANDIN_OLD_ATB
        return true;
#else
        return atb::Probe::IsSaveTensorInSpecificDir(dir);
#endif
    }

    void Save(const Operation &op, const std::string &dir, bool wanted, bool before) const
    {
        const bool asked = before ? atb::Probe::IsSaveTensorBefore() : atb::Probe::IsSaveTensorAfter();
        if (!Ready(dir, wanted) || !asked) {
            return;
        }
        const std::string phase = dir + (before ? "/before/" : "/after/");
        // The outputs before execution are stale memory, as on the device.
        for (size_t i = 0; i < op.in.size(); ++i) {
            SaveArray(op.in[i], op.in[i].bytes, phase + "intensor" + std::to_string(i) + ".bin");
        }
        for (size_t i = 0; i < op.out.size(); ++i) {
            SaveArray(op.out[i], before ? Bytes(op.out[i].bytes.size(), 0xee) : op.out[i].bytes,
                      phase + "outtensor" + std::to_string(i) + ".bin");
        }
    }

    static void SaveArray(const Array &array, const Bytes &bytes, const std::string &path)
    {
        atb::Probe::SaveTensor("2", array.dtype, array.Dims(), bytes.data(), bytes.size(), path);
    }

    bool Kernel(const Operation &op, const std::string &dir, const std::vector<long> &ids, const std::string &joined) const
    {
        Operation kernel{op.kernel, "", "", op.in, op.out, {}};
        const std::string kernelDir = dir.empty() ? dir : dir + "/0_" + op.kernel;
        auto kernelIds = ids;
        kernelIds.push_back(0);
        const bool wanted = atb::Probe::IsTensorNeedSave(kernelIds, op.name);
        Save(kernel, kernelDir, wanted, true);
        if (atb::Probe::IsSaveTiling() && !kernelDir.empty()) {
            const unsigned char tiling[] = {1, 0, 0, 0, 32, 0, 0, 0};
            atb::Probe::SaveTiling(tiling, sizeof tiling, kernelDir + "/kernel_tilingdata.bin");
        }
        Save(kernel, kernelDir, wanted, false);
        if (atb::Probe::ReportKernelIOTensorEnable()) {
            atb::Probe::ReportKernelIOTensor(count, op.kernel, "opName: " + op.kernel,
                                             Described(op.in, dir, "intensor"), Described(op.out, dir, "outtensor"));
        }
        if (atb::Probe::IsOverflowCheck() && HasInfinity(op.out)) {
            atb::Probe::ReportOverflowKernel(joined + ":" + op.kernel);
            return !atb::Probe::IsOverflowStop();
        }
        return true;
    }

    static bool HasInfinity(const std::vector<Array> &arrays)
    {
        for (const Array &array : arrays) {
            for (size_t i = 0; array.dtype == "1" && i + 1 < array.bytes.size(); i += 2) {
                if (array.bytes[i] == 0 && (array.bytes[i + 1] & 0x7f) == 0x7c) {
                    return true;
                }
            }
        }
        return false;
    }

    static std::vector<atb::Probe::Tensor> Described(const std::vector<Array> &arrays, const std::string &dir,
                                                     const std::string &stem)
    {
        std::vector<atb::Probe::Tensor> described;
        for (size_t i = 0; i < arrays.size(); ++i) {
            described.push_back({arrays[i].dtypeName, "nd", arrays[i].Dims(),
                                 dir + "/after/" + stem + std::to_string(i) + ".bin"});
        }
        return described;
    }

    std::string root;
    unsigned long count;
};

const char *const EMBEDDING_GRAPH =
    R"({"inTensorNum":2,"internalTensorNum":0,"nodes":[{"inTensorIds":[0,1],"inTensorNum":2,"opName":"GatherOperation_0_0",)"
    R"("opType":"GatherOperation","outTensorIds":[2],"outTensorNum":1,"param":{"axis":0}}],"opName":"WordEmbedding_0",)"
    R"("opType":"WordEmbedding","outTensorNum":1,"param":""})";
const char *const LAYER_GRAPH =
    R"({"inTensorNum":2,"internalTensorNum":1,"nodes":[{"inTensorIds":[0,1],"inTensorNum":2,"opName":"LinearOperation_1_0",)"
    R"("opType":"LinearOperation","outTensorIds":[3],"outTensorNum":1,"param":{"hasBias":false}},)"
    R"({"inTensorIds":[3,0],"inTensorNum":2,"opName":"ElewiseOperation_1_1","opType":"ElewiseOperation",)"
    R"("outTensorIds":[2],"outTensorNum":1,"param":{"elewiseType":8}}],"opName":"TinyLayer_1","opType":"TinyLayer",)"
    R"("outTensorNum":1,"param":""})";
const char *const MODEL_GRAPH =
    R"({"inTensors":["TinyModel_input_0"],"internalTensors":["TinyModel_internal_0"],"kCacheTensors":[],)"
    R"("modelName":"TinyModel","nodes":[{"inTensors":["TinyModel_input_0","TinyModel_weight_0"],"opName":"WordEmbedding",)"
    R"("outTensors":["TinyModel_internal_0"]},{"inTensors":["TinyModel_internal_0","TinyModel_weight_1"],)"
    R"("opName":"TinyLayer","outTensors":["TinyModel_output_0"]}],"outTensors":["TinyModel_output_0"],)"
    R"("vCacheTensors":[],"weightTensors":["TinyModel_weight_0","TinyModel_weight_1"]})";
} // namespace

// Runs `steps` forwards on `device`; returns 0, or the step (from 1) that an overflow stopped.
extern "C" __attribute__((visibility("default"))) int standin_run(int steps, int device, int poison)
{
    std::vector<float> table(32);
    std::vector<float> weight(16);
    for (int i = 0; i < 32; ++i) {
        table[i] = static_cast<float>(i) / 8;
    }
    for (int r = 0; r < 4; ++r) {
        for (int c = 0; c < 4; ++c) {
            weight[4 * r + c] = static_cast<float>((3 * r + 5 * c) % 7 - 3) / 4;
        }
    }
    if (poison != 0) {
        weight[0] = std::numeric_limits<float>::infinity();
    }
    for (int step = 0; step < steps; ++step) {
        const std::vector<int64_t> ids = step == 0 ? std::vector<int64_t>{1, 2, 3} : std::vector<int64_t>{(step + 3) % 8};
        const long n = static_cast<long>(ids.size());
        std::vector<float> x, y, z;
        for (int64_t id : ids) {
            x.insert(x.end(), table.begin() + 4 * id, table.begin() + 4 * id + 4);
        }
        for (long i = 0; i < n; ++i) {
            for (int r = 0; r < 4; ++r) {
                float sum = 0;
                for (int c = 0; c < 4; ++c) {
                    sum += x[4 * i + c] * weight[4 * r + c];
                }
                y.push_back(sum);
                z.push_back(sum + x[4 * i + r]);
            }
        }
        const Array idArray{"9", "int64", {n}, Raw(ids)};
        const Array tableArray = Halves(table, {8, 4});
        const Array xArray = Halves(x, {n, 4});
        const Array weightArray = Halves(weight, {4, 4});
        const Array yArray = Halves(y, {n, 4});
        const Array zArray{"0", "float", {n, 4}, Raw(z)};

        const Operation embedding{"WordEmbedding", "", "", {idArray, tableArray}, {xArray},
            {{"GatherOperation", R"({"axis":0})", "GatherKernel", {idArray, tableArray}, {xArray}, {}}}};
        const Operation layer{"TinyLayer", "", "", {xArray, weightArray}, {zArray},
            {{"LinearOperation", R"({"hasBias":false})", "MatMulKernel", {xArray, weightArray}, {yArray}, {}},
             {"ElewiseOperation", R"({"elewiseType":8})", "AddKernel", {yArray, xArray}, {zArray}, {}}}};

        if (step == 0 && atb::Probe::ReportOperationGraphEnable()) {
            atb::Probe::ReportOperationGraph("WordEmbedding_0", EMBEDDING_GRAPH);
            atb::Probe::ReportOperationGraph("TinyLayer_1", LAYER_GRAPH);
        }
        Run run(device, static_cast<unsigned long>(step));
        if (!run.Execute(embedding, {0}, "") || !run.Execute(layer, {1}, "")) {
            return step + 1;
        }
        if (step == 0 && atb_speed::SpeedProbe::IsReportModelTopoInfo("TinyModel")) {
            atb_speed::SpeedProbe::ReportModelTopoInfo("TinyModel", MODEL_GRAPH);
        }
    }
    return 0;
}
