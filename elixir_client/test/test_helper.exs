# SPDX-License-Identifier: Apache-2.0
GpuSched.TestNode.start()
# What is waited for comes; on a machine that others keep busy it may take a while.
ExUnit.start(assert_receive_timeout: 30_000)
