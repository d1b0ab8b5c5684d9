-- Ends a lease and gives back what the call did not use after all, or takes what it used beyond that.
--
-- KEYS: requests, tokens, leases
-- ARGV: requests/minute, tokens/minute, call id, requests to give back (0 or 1), tokens to give back (or, below 0, to take)
local MINUTE = 60 * 1000 * 1000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function give_back(key, amount)
    local tat = tonumber(redis.call('GET', key)) or now
    if amount ~= 0 then
        tat = math.min(math.max(tat - amount, now), now + MINUTE)
        redis.call('SET', key, string.format('%.0f', tat), 'PX', 61000)
    end
end

redis.call('ZREM', KEYS[3], ARGV[3])
give_back(KEYS[1], ARGV[4] * MINUTE / ARGV[1])
give_back(KEYS[2], ARGV[5] * MINUTE / ARGV[2])
