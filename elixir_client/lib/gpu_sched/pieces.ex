# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Pieces do
  # The data of a tensor that came in pieces. They are written where they belong as they are: making one
  # binary of them would copy all of it.
  @moduledoc false

  @enforce_keys [:list, :size]
  defstruct [:list, :size]

  @type t :: %__MODULE__{list: [binary], size: non_neg_integer}

  @spec join(t) :: binary
  def join(%__MODULE__{list: list}), do: IO.iodata_to_binary(list)
end
