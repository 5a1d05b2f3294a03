# SPDX-License-Identifier: Apache-2.0
GpuSched.TestNode.start()
ExUnit.start(assert_receive_timeout: 5_000)
