# SPDX-License-Identifier: Apache-2.0
#
# ./dev load: the command line is that of GpuSched.Load.Script.
{:ok, _} = Application.ensure_all_started(:gpu_sched)
System.halt(GpuSched.Load.Script.main(System.argv()))
