-- Orthanc sends every radiograph that it stores to cxr-worker, which answers with a report.
-- Put it beside Orthanc's configuration: "LuaScripts": ["forward.lua"], and name the worker
-- "cxr-worker" in "DicomModalities". What cxr-worker itself sends is not sent back.

local MODALITY = 'cxr-worker'
local FORWARDED = { CR = true, DX = true }

function OnStoredInstance(instanceId, tags, metadata, origin)
  if FORWARDED[tags['Modality']] then
    SendToModality(instanceId, MODALITY)
  end
end
