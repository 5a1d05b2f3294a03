# SPDX-License-Identifier: Apache-2.0
GpuSched.TestNode.start()
# What is waited for comes, however late the machine is: these end only what would never end.
ExUnit.start(assert_receive_timeout: 60_000, timeout: 300_000)
