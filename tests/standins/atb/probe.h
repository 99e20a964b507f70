// What libatb declares of its probe: static members that do nothing until a preloaded library defines
// them. Source: "ATB inference dump", section 4.4 (interposed functions).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace atb {
class Probe {
public:
    struct Tensor {
        std::string dtype;
        std::string format;
        std::string shape;
        std::string filePath;
    };
    static void UpdateConfig();
    static bool IsTensorNeedSave(const std::vector<long> &ids, const std::string &opName);
    static bool IsSaveTensorInSpecificDir(const std::string &dir);
    static bool IsExecuteCountInRange(unsigned long count);
    static bool IsSaveTensorData();
    static bool IsSaveTensorDesc();
    static bool IsSaveTensorBefore();
    static bool IsSaveTensorAfter();
    static void SaveTensor(const std::string &format, const std::string &dtype, const std::string &dims,
                           const void *host, unsigned long size, const std::string &path);
    static bool IsSaveTiling();
    static void SaveTiling(const unsigned char *data, unsigned long size, const std::string &path);
    static bool IsSaveParam();
    static void SaveParam(const std::string &json, const std::string &path);
    static bool ReportOperationGraphEnable();
    static void ReportOperationGraph(const std::string &name, const std::string &json);
    static bool ReportOperationStatisticEnable();
    static void ReportOperationSetupStatistic(unsigned long count, const std::string &name,
                                              const std::string &text);
    static void ReportOperationExecuteStatistic(unsigned long count, const std::string &name,
                                                const std::string &text);
    static bool ReportOperationIOTensorEnable();
    static void ReportOperationIOTensor(unsigned long count, const std::string &name,
                                        const std::string &param, const std::vector<Tensor> &in,
                                        const std::vector<Tensor> &out);
    static bool ReportKernelIOTensorEnable();
    static void ReportKernelIOTensor(unsigned long count, const std::string &name,
                                     const std::string &param, const std::vector<Tensor> &in,
                                     const std::vector<Tensor> &out);
    static bool IsOverflowCheck();
    static bool IsOverflowStop();
    static void ReportOverflowKernel(const std::string &name);
};
} // namespace atb

namespace atb_speed {
class SpeedProbe {
public:
    static bool IsReportModelTopoInfo(const std::string &model);
    static void ReportModelTopoInfo(const std::string &model, const std::string &json);
};
} // namespace atb_speed
