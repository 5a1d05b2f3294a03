# SPDX-License-Identifier: Apache-2.0
defmodule GpuSched.Request do
  @moduledoc """
  A request begun with `GpuSched.async/4`.

  `:ref` is what its message begins with, `{ref, result}`; `:owner` the process that began it, and
  that alone may await it. Everything else is private.
  """

  @enforce_keys [:ref, :owner, :pid, :model]
  defstruct [:ref, :owner, :pid, :model]

  @type t :: %__MODULE__{ref: reference, owner: pid, pid: pid, model: String.t()}

  defimpl Inspect do
    import Inspect.Algebra

    def inspect(request, opts) do
      concat([
        "#GpuSched.Request<",
        to_doc(request.model, opts),
        " ",
        to_doc(request.ref, opts),
        ">"
      ])
    end
  end
end
