# SPDX-License-Identifier: Apache-2.0
[
  inputs: ["{mix,.formatter}.exs", "{lib,test}/**/*.{ex,exs}", "../bench/**/*.exs"],
  line_length: 98
]
