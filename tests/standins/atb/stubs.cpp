// The bodies libatb ships: each answers "no", except that it lets every directory be saved.
// They live in a translation unit of their own so that calls go through the PLT and can be interposed.
#include "probe.h"

namespace atb {
#ifndef STANDIN_OLD_ATB
void Probe::UpdateConfig() {}
bool Probe::IsSaveTensorInSpecificDir(const std::string &) { return true; }
#endif
bool Probe::IsTensorNeedSave(const std::vector<long> &, const std::string &) { return false; }
bool Probe::IsExecuteCountInRange(unsigned long) { return false; }
bool Probe::IsSaveTensorData() { return false; }
bool Probe::IsSaveTensorDesc() { return false; }
bool Probe::IsSaveTensorBefore() { return false; }
bool Probe::IsSaveTensorAfter() { return false; }
void Probe::SaveTensor(const std::string &, const std::string &, const std::string &, const void *,
                       unsigned long, const std::string &) {}
bool Probe::IsSaveTiling() { return false; }
void Probe::SaveTiling(const unsigned char *, unsigned long, const std::string &) {}
bool Probe::IsSaveParam() { return false; }
void Probe::SaveParam(const std::string &, const std::string &) {}
bool Probe::ReportOperationGraphEnable() { return false; }
void Probe::ReportOperationGraph(const std::string &, const std::string &) {}
bool Probe::ReportOperationStatisticEnable() { return false; }
void Probe::ReportOperationSetupStatistic(unsigned long, const std::string &, const std::string &) {}
void Probe::ReportOperationExecuteStatistic(unsigned long, const std::string &, const std::string &) {}
bool Probe::ReportOperationIOTensorEnable() { return false; }
void Probe::ReportOperationIOTensor(unsigned long, const std::string &, const std::string &,
                                    const std::vector<Tensor> &, const std::vector<Tensor> &) {}
bool Probe::ReportKernelIOTensorEnable() { return false; }
void Probe::ReportKernelIOTensor(unsigned long, const std::string &, const std::string &,
                                 const std::vector<Tensor> &, const std::vector<Tensor> &) {}
bool Probe::IsOverflowCheck() { return false; }
bool Probe::IsOverflowStop() { return false; }
void Probe::ReportOverflowKernel(const std::string &) {}
} // namespace atb

namespace atb_speed {
bool SpeedProbe::IsReportModelTopoInfo(const std::string &) { return false; }
void SpeedProbe::ReportModelTopoInfo(const std::string &, const std::string &) {}
} // namespace atb_speed
